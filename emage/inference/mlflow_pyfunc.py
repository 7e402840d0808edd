"""A checkpoint as an MLflow model: what `mlflow.pyfunc.load_model` and `mlflow models serve` call.

MLflow finds `_load_pyfunc` by the name of this module, which is in the model's MLmodel file; emage.on_ray.mlflow_model
writes that file. Neither Ray nor code from the model's own files is needed: the weights are safetensors.
"""

import base64
import io
from typing import TYPE_CHECKING, Any

from emage.config import SamplingConfig
from emage.config.fields import leaves
from emage.inference.pipeline import Emage

if TYPE_CHECKING:
    import pandas as pd

PROMPT, SEED, IMAGE = "prompt", "seed", "png_base64"
# Columns of the input, all but the first optional, with their types. The sampling settings are those of `generate`.
COLUMNS: dict[str, type] = {
    PROMPT: str,
    "negative_prompt": str,
    SEED: int,
    "candidates": int,
    **{key: leaf.type if leaf.type in (int, float) else str for key, leaf in leaves(SamplingConfig).items()},
}


class PyfuncModel:
    """A table of prompts -> a table of images."""

    def __init__(self, pipe: Emage):
        self.pipe = pipe

    def predict(self, model_input: "pd.DataFrame", params: dict[str, Any] | None = None) -> "pd.DataFrame":
        """Generate one image per row.

        Args:
            model_input: Columns as in COLUMNS. A missing column or value is the default of `Emage.generate`.
            params: Not used; MLflow passes it.

        Returns:
            `png_base64`, each row's PNG file as base64 text, which JSON and Spark can hold; and its `seed`.

        Raises:
            InputError: A row has no prompt, or a value that is not allowed.
        """
        import pandas as pd

        rows = [_given(row) for row in model_input.to_dict("records")]
        images: dict[int, str] = {}
        for settings, numbers in _rows_by_settings(rows).items():
            of_group = [rows[number] for number in numbers]
            generated = self.pipe.generate(
                [row.get(PROMPT, "") for row in of_group],
                negative_prompt=[row.get("negative_prompt", "") for row in of_group],
                seed=[row.get(SEED, 0) for row in of_group],
                **dict(settings),
            )
            images |= zip(numbers, map(_to_base64, generated), strict=True)
        seeds = [row.get(SEED, 0) for row in rows]
        return pd.DataFrame({IMAGE: [images[number] for number in range(len(rows))], SEED: seeds})


def _load_pyfunc(data_path: str) -> PyfuncModel:
    """Load the checkpoint in a folder, on a GPU if there is one."""
    return PyfuncModel(Emage.from_pretrained(data_path))


def _given(row: dict[Any, Any]) -> dict[str, Any]:
    """Return a row's values, without those that are missing, beside which pandas makes 4.0 of 4."""
    given = {name: value for name, value in row.items() if value is not None and value == value}
    for name in given.keys() & {name for name, kind in COLUMNS.items() if kind is int}:
        if isinstance(given[name], float) and given[name].is_integer():
            given[name] = int(given[name])
    return given


def _rows_by_settings(rows: list[dict[str, Any]]) -> dict[tuple[tuple[str, Any], ...], list[int]]:
    """Return the numbers of the rows that have the same settings and are generated together."""
    groups: dict[tuple[tuple[str, Any], ...], list[int]] = {}
    for number, row in enumerate(rows):
        settings = [(name, value) for name, value in row.items() if name not in (PROMPT, "negative_prompt", SEED)]
        groups.setdefault(tuple(sorted(settings)), []).append(number)
    return groups


def _to_base64(image: Any) -> str:
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
