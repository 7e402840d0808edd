"""The model card: README.md of a checkpoint folder, generated from its manifest and the model.

The manifest of a model that was loaded is a stranger's: its texts are shown as code, in which nothing is markup.

The front matter is indexed by the model hub. Sections: how to use the model, its parts, its training, its scores with
the settings that produced them, and its limits.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock
from torch import nn

from emage.config import CheckpointConfig
from emage.methods import METHODS
from emage.model import checkpoint_manifest
from emage.model.transformer import Network
from emage.utils import manifest
from emage.utils.image_grid import printable
from emage.utils.untrusted.markdown import code_span

NAME, SAMPLES = "README.md", "samples.png"
PROMPT = "a red bus on a street"  # in the example of a model that was saved without prompts

CITATION = """\
```bibtex
@article{feng2023emage,
  title   = {Emage: Non-Autoregressive Text-to-Image Generation},
  author  = {Feng, Zhangyin and Hu, Runyi and Liu, Liangxin and Zhang, Fan and Tang, Duyu and Dai, Yong and
             Feng, Xiaocheng and Li, Jiwei and Qin, Bing and Shi, Shuming},
  journal = {arXiv preprint arXiv:2312.14988},
  year    = {2023}
}
```"""


class Described(Protocol):
    """The attributes of a model that a card describes; emage.Emage has them."""

    config: CheckpointConfig
    network: Network
    tokenizer: Any

    @property
    def size(self) -> tuple[int, int]: ...


def write(folder: str | Path, pipe: Described, name: str = ".") -> None:
    """Write the card of the checkpoint in `folder`, whose model is `pipe`. `name`: the path or id in its example."""
    from huggingface_hub import ModelCard

    metadata = checkpoint_manifest.read(folder)
    shown = f"![sample images]({SAMPLES})" if (Path(folder) / SAMPLES).exists() else ""
    sections = [
        f"# Emage, {pipe.config.method}",
        "Text to image after [the Emage paper](https://arxiv.org/abs/2312.14988). " + _method(pipe.config.method),
        shown,
        _use(metadata, name),
        _model(pipe, metadata),
        _training(metadata),
        _scores(metadata),
        _limits(pipe, metadata),
        f"## Citation\n{CITATION}",
    ]
    body = "\n\n".join(section for section in sections if section)
    ModelCard(f"---\n{_front_matter(pipe, metadata)}\n---\n{body}\n").save(Path(folder) / NAME)


def add_scores(folder: str | Path, pipe: Described, record: dict[str, Any]) -> None:
    """Record an evaluation in the manifest and the card of the checkpoint in `folder`, whose model is `pipe`.

    The manifest's `files`, by which a checkpoint is verified and identified, stay as they are.

    Args:
        folder: The checkpoint folder.
        pipe: Its model.
        record: `figures` (metric name -> value), `captions` (their number), `file` (the captions' file name) and
            `settings` (everything that the values depend on). Values of equal settings are merged into one record.
    """
    path = Path(folder) / manifest.NAME
    with FileLock(Path(folder) / ".scores.lock"):  # two evaluations may end at the same time
        metadata = checkpoint_manifest.read(folder)
        scores = metadata.setdefault("scores", {})
        key = manifest.fingerprint(record["settings"])
        earlier = scores.get(key, {"figures": {}})["figures"]
        scores[key] = record | {"figures": earlier | record["figures"]}
        manifest.write_json(path, metadata)
        write(folder, pipe)


# --- Front matter -----------------------------------------------------------------------------------------------------


def _front_matter(pipe: Described, metadata: dict[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type="text-to-image",
            dataset_type="captions",
            dataset_name=printable(record["file"]),
            metric_type=printable(name),
            metric_value=value,
            metric_args=record["settings"],
        )
        for record in metadata.get("scores", {}).values()
        for name, value in record["figures"].items()
    ]
    data = ModelCardData(
        language="en",
        license=printable(metadata.get("license", "apache-2.0")),
        library_name="emage",
        pipeline_tag="text-to-image",
        tags=["emage", pipe.config.method],
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=f"emage-{pipe.config.method}",
        eval_results=results or None,
    )
    return data.to_yaml()


# --- Sections ---------------------------------------------------------------------------------------------------------


def _use(metadata: dict[str, Any], name: str) -> str:
    first = (metadata.get("prompts") or [PROMPT])[0]
    prompt = json.dumps(first, ensure_ascii=not first.isprintable())  # one line in any case
    source = "this folder" if name == "." else "downloaded once, then from the cache"
    return f"""\
## Use
```python
import emage

pipe = emage.Emage.from_pretrained({json.dumps(name)})  # {source}
image = pipe.generate([{prompt}], seed=7)[0]  # a PIL image
image.save("image.png")
```"""


def _model(pipe: Described, metadata: dict[str, Any]) -> str:
    config, model, tokenizer = pipe.config, pipe.config.model, metadata["tokenizer"]
    decoder = (
        f"{model.depth} layers, width {model.width}, {model.num_heads} heads, {model.mlp}, {model.positions} positions"
    )
    parts = {
        f"text encoder (`{model.text}`, {model.text_length} positions)": pipe.network.text,
        f"decoder ({decoder})": pipe.network.decoder,
        f"image tokenizer ({code_span(tokenizer['name'])})": pipe.tokenizer,
    }
    rows = [(what, f"{_parameters(part):,}") for what, part in parts.items()]
    rows.append(("all", f"{sum(map(_parameters, parts.values())):,}"))
    height, width = pipe.size
    return (
        f"## Model\nAn image is {width} x {height} pixels: {config.grid[0]} x {config.grid[1]} tokens of "
        f"{config.vocab_size} codes.\n\n{_table(('part', 'parameters'), rows)}\n\n"
        f"The tokenizer's weights have sha256 {code_span(tokenizer['sha256'])}; the model works with no other."
    )


def _training(metadata: dict[str, Any]) -> str:
    facts = ((name, value) for name, value in _training_rows(metadata) if value is not None)
    rows = [(name, _shown(value) if isinstance(value, str) else str(value)) for name, value in facts]
    settings = metadata.get("settings")
    shown = f"\n\nSettings:\n\n{_json_block(settings)}" if settings else ""
    return f"## Training\n{_table(('what', 'value'), rows)}{shown}"


def _training_rows(metadata: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    data = metadata.get("data", {})
    yield "data", data.get("path")
    yield "caption-image pairs", data.get("rows")
    yield "fingerprint of the data", data.get("fingerprint")
    yield "steps", metadata.get("step")
    yield "seconds", metadata.get("seconds")
    for name, value in metadata.get("metrics", {}).items():
        if name not in ("samples", "time") and value is not None:  # a checksum of the last batch, and the time
            yield f"{_shown(name)} at the end", f"{value:.4g}"
    yield "git commit", metadata.get("git")
    yield "emage", metadata.get("emage")


def _scores(metadata: dict[str, Any]) -> str:
    if not metadata.get("scores"):
        return "## Scores\nNot measured."
    parts = ["## Scores"]
    for record in metadata["scores"].values():
        rows = [(_shown(name), f"{value:.4f}") for name, value in record["figures"].items()]
        parts.append(
            f"{record['captions']} captions of {code_span(record['file'])}, one run:\n\n"
            f"{_table(('metric', 'value'), rows)}\n\nwith\n\n{_json_block(record['settings'])}"
        )
    return "\n\n".join(parts)


def _method(method: str) -> str:
    """Return the first sentence of the method's own docstring."""
    return " ".join((METHODS[method].__doc__ or "").strip().split("\n\n")[0].split())


def _limits(pipe: Described, metadata: dict[str, Any]) -> str:
    height, width = pipe.size
    limits = [
        "It generates what its training captions describe, in English and in their style; expect nothing "
        "of other prompts.",
        f"Every image is {width} x {height} pixels. The model cannot generate what the tokenizer cannot represent "
        "at that size, such as small faces and lettering.",
        f"It reads {pipe.config.model.text_length} tokens of a caption, including begin and end; the rest is ignored.",
        "Counts and positions of objects are often wrong; see the scores above, if they measure it.",
        "Data from the web have the web's prejudices, and people, places and languages are represented unequally; a "
        "model trained on them repeats both. There is no filter on prompts or images: add one before you offer this "
        "model to others.",
    ]
    limits = [*getattr(METHODS[pipe.config.method], "LIMITS", ()), *limits]
    return "## Limits\n" + "\n".join(f"- {limit}" for limit in limits)


def _shown(text: str) -> str:
    """Return a text of the manifest; as code, if it is more than words or a number."""
    return text if re.fullmatch(r"[\w -]+|[\d.e+-]+", text, re.ASCII) else code_span(text)


def _json_block(value: Any) -> str:
    """Return a value as a block of JSON. Its texts cannot end the block: JSON has no line breaks in them."""
    return f"```json\n{json.dumps(value, indent=2)}\n```"


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [tuple(cell.replace("|", "\\|") for cell in row) for row in rows]
    return "\n".join(f"| {name} | {value} |" for name, value in [head, ("---", "---"), *lines])


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
