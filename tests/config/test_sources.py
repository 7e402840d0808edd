"""The source of each default: "paper, Sec. N" for the values that the paper states, "ours" for all others."""

from typing import Any

import pytest

from emage.config import (
    CheckpointConfig,
    DemoConfig,
    EvaluateConfig,
    IngestConfig,
    ReproduceConfig,
    ServeConfig,
    TrainConfig,
)
from emage.config.fields import leaves

TOKENIZER = ("vqgan-gumbel-f8-8192", "4.1")
NETWORK = {"model.width": (768, "4"), "model.depth": (12, "4"), "model.text": ("clip_l14", "4.3")}
SAMPLING = {
    "sampling.steps": (16, "4.6"),
    "sampling.schedule": ("cosine", "4.7"),
    "sampling.order": ("confidence", "3.2"),
}
# What the paper states, read from its text: key -> (value, section). It states neither the strength of the Gumbel noise
# nor the temperature, nor how kept tokens are revised, nor heads, activation and positions of the network.
STATED: dict[type, dict[str, tuple[Any, str]]] = {
    IngestConfig: {"download.image_size": (256, "Abstract"), "tokenize.tokenizer": TOKENIZER},
    TrainConfig: {
        "method": ("iterative3", "4.4"),
        "data.tokenizer": TOKENIZER,
        **NETWORK,
        **SAMPLING,
        "objective.mask_schedule": ("linear", "4.7"),
        "objective.mask_curriculum": (0.0, "4.2"),
        "optim.optimizer": ("adamw", "4"),
        "optim.steps": (500_000, "4"),
        "optim.batch_size": (1024, "4"),
        "optim.lr": (4.5e-4, "4"),
        "optim.warmup": (0.02, "4"),
        "optim.beta1": (0.9, "4"),
        "optim.beta2": (0.96, "4"),
        "optim.weight_decay": (4.5e-2, "4"),
        "optim.clip_norm": (4.0, "4"),
        "run.precision": ("float32", "4"),
    },
    EvaluateConfig: {"limit": (30_000, "4"), "candidates": (16, "4"), "rank": ("clip", "4")},
    CheckpointConfig: {
        "method": ("iterative3", "4.4"),
        "vocab_size": (8192, "3.1"),
        "grid": ((32, 32), "3.1"),
        **NETWORK,
        **SAMPLING,
    },
    ServeConfig: {},
    ReproduceConfig: {},
    DemoConfig: {},
}


@pytest.mark.parametrize("program", STATED)
def test_only_what_the_paper_states_is_marked_as_the_papers(program: type):
    found = {
        key: (leaf.default, leaf.setting.source.removeprefix("paper, ").removeprefix("Sec. "))
        for key, leaf in leaves(program).items()
        if leaf.setting.source != "ours"
    }
    assert found == STATED[program]
