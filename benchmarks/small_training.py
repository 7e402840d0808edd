"""Part of benchmarks/context.py and plateau.py: one training on the toy world, in this process."""

from collections.abc import Callable
from typing import Any

import torch

from emage import tokenizers
from emage.config import TrainConfig, preset
from emage.data.token_table import Batch, TokenTable
from emage.inference.pipeline import Emage
from emage.model import checkpoint
from emage.model.transformer import Network
from emage.training.engine import BareEngine, Objective
from emage.training.loop import fit


def train(
    table: str,
    method: str,
    seed: int,
    on_step: Callable[[Network, TrainConfig, int, dict[str, float], Batch], None],
    **changes: dict[str, Any],
) -> Emage:
    """Train a model of the `demo` preset; return it.

    Args:
        table: Token table.
        method: Training and decoding method.
        seed: Of weights, rows and masks.
        on_step: Called after each step with the network, the settings, the steps done, their metrics and the rows.
        changes: Settings in place of the preset's, by group: `optim={"steps": 100}`.
    """
    run = {"output": "unused", "seed": seed}
    config = preset(TrainConfig, "demo", method=method, data={"path": table}, run=run, **changes)
    rows = TokenTable(table, seed)
    parts = config.checkpoint_config(rows.tokenizer.vocab_size, rows.tokenizer.grid)
    torch.manual_seed(seed)
    network = checkpoint.build(parts)
    engine = BareEngine(Objective(network, config.method, config.objective), config.optim)
    fit(engine, rows, config, lambda step, metrics, batch: on_step(network, config, step, metrics, batch))
    return Emage(network, tokenizers.load(tokenizers.DEMO), parts)
