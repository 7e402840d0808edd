"""Costs of generating an image by each method, for the charts of the study `methods`."""

from collections.abc import Sequence

from emage.config import Method
from emage.data.schema import TokenizerInfo
from emage.reproduce import requirements
from emage.reproduce.paper_numbers import TABLE6
from emage.reproduce.studies import DECODING_STEPS, METHOD_LABELS, Study
from emage.training.estimate import parameters_and_flops

# Lines of the charts: label -> (method, beginning of the keys of its rows).
LINES: dict[str, tuple[Method, str]] = {
    METHOD_LABELS["parallel_autoregressive"]: ("parallel_autoregressive", "parallel_autoregressive"),
    f"{METHOD_LABELS['iterative3']}, Halton order": ("iterative3", "iterative3/halton"),
}


def by_steps() -> dict[str, list[tuple[str, float]]]:
    """Return (key of a row, decoding steps) of each line."""
    return {label: [(_key(start, steps), steps) for steps in TABLE6] for label, (_, start) in LINES.items()}


def by_flops(study: Study, tokenizer: TokenizerInfo) -> dict[str, list[tuple[str, float]]]:
    """Return (key of a row, GFLOP of an image) of each line, and of the other methods at their own steps."""
    lines = {
        label: [(_key(start, steps), _gflop(study, method, steps, tokenizer)) for steps in TABLE6]
        for label, (method, start) in LINES.items()
    }
    others: Sequence[tuple[Method, str]] = (
        ("iterative1", "iterative1/halton"),
        ("iterative2", "iterative2/halton"),
        ("autoregressive", "autoregressive"),
        ("fully_nar", "fully_nar"),
    )
    return lines | {
        METHOD_LABELS[method]: [(key, _gflop(study, method, DECODING_STEPS, tokenizer))] for method, key in others
    }


def _key(start: str, steps: int) -> str:
    return start if steps == DECODING_STEPS else f"{start}/steps={steps}"


def _gflop(study: Study, method: Method, steps: int, tokenizer: TokenizerInfo) -> float:
    """Return the GFLOP of text encoder and decoder for an image."""
    config = next(one.config for one in study.curves if one.config.method == method)
    network = requirements.network_of(config, tokenizer)
    return parameters_and_flops.generation_flops(network, method, steps) / 1e9
