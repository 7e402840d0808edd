"""Runs to plan: the paper's settings, tiny networks of each kind, and what their loss is called with."""

from dataclasses import replace
from typing import Any, NamedTuple

import torch

from emage.config import ModelConfig, TrainConfig, preset
from emage.methods import METHODS
from emage.methods.masking import ImageRng
from emage.model.transformer import Network
from emage.training.engine import Objective

TINY = ModelConfig(width=32, depth=2, num_heads=2, text="clip_tiny", text_length=8)
MODELS = {
    "clip": TINY,
    "bert": replace(TINY, text="bert_tiny"),
    "frozen": replace(TINY, text_frozen=True),
    "bert, frozen": replace(TINY, text="bert_tiny", text_frozen=True),
    "gelu, learned": replace(TINY, mlp="gelu", positions="learned", mlp_ratio=2.0),
}
B = 3


class Tokens(NamedTuple):
    """Vocabulary and grid of a tokenizer; by default those of the paper."""

    vocab_size: int = 8192
    grid: tuple[int, int] = (32, 32)


def paper(**values: Any) -> TrainConfig:
    """Return the preset `paper` with other values."""
    return preset(TrainConfig, "paper", data={"path": "t"}, run={"output": "o", **values.pop("run", {})}, **values)


def step(config: TrainConfig, tokens: Tokens, batch: int = B) -> tuple[Objective, tuple]:
    """Return a real network with its method's loss, and the arguments of one call."""
    torch.manual_seed(0)
    network = Network(config.model, tokens.vocab_size, tokens.grid, causal=METHODS[config.method].CAUSAL)
    y = torch.randint(0, tokens.vocab_size, (batch, tokens.grid[0] * tokens.grid[1]))
    # Short captions: if they were truncated to the same words, a frozen encoder would read them once.
    ids, _ = network.text.tokenize([f"{i}" for i in range(batch)])
    return Objective(network, config.method, config.objective), (ids, y, ImageRng(range(batch)))
