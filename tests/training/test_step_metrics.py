"""The metrics of a step, counted by hand, and the page that lists them."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from programs import ROOT

from emage.config import CheckpointConfig, ObjectiveConfig, TrainConfig, preset
from emage.data.token_table import Batch, TokenTable
from emage.methods import masking
from emage.methods.masking import MASK, ImageRng
from emage.model import checkpoint
from emage.training import step_metrics
from emage.training.engine import BareEngine, Objective
from emage.training.loop import train_step
from emage.training.spike_guard import SpikeGuard


def test_the_metrics_of_a_step_counted_by_hand(token_table: Path):
    """A step of iterative1, from its own masks."""
    config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"}, method="iterative1")
    rows = TokenTable(str(token_table), seed=0)
    network = checkpoint.build(CheckpointConfig("iterative1", 512, (8, 8), config.model))
    engine = BareEngine(Objective(network, "iterative1", config.objective), config.optim)
    batch = rows.batch(0, 8)
    masked = masking.sample_mask(64, ObjectiveConfig(), ImageRng(batch.seeds))
    with torch.no_grad():
        logits = network.decoder(
            batch.y.masked_fill(masked, MASK), network.encode_text(network.text.tokenize(batch.captions)[0])
        )
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.y, reduction="none")
    values = train_step(engine, batch, config, SpikeGuard(3.0), lr=1e-3, in_warm_start=False)
    assert values["loss"] == pytest.approx(nats[masked].mean().item(), rel=1e-5)
    assert values["below_chance"] == pytest.approx(math.log(512) - values["loss"])
    correct = logits.argmax(-1) == batch.y
    assert values["accuracy_masked"] == pytest.approx(correct[masked].float().mean().item())
    assert values["accuracy_visible"] == pytest.approx(correct[~masked].float().mean().item())
    fraction = masked.float().mean(1)
    for low, high in ((0, 25), (25, 50), (50, 75), (75, 100)):
        of = (fraction > low / 100) & (fraction <= high / 100)
        if of.any():
            expected = nats[of][masked[of]].mean().item()
            assert values[f"loss_masked_{high}"] == pytest.approx(expected, rel=1e-5)
        else:
            assert f"loss_masked_{high}" not in values
    assert values["skipped"] == 0


def test_truncated_captions_are_counted(token_table: Path):
    # 8 positions: begin, 6 words, end; the longer caption has 8 words.
    config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"})
    for length, fraction in ((77, 0.0), (8, 0.5)):
        model = replace(config.model, text_length=length)
        parts = CheckpointConfig(config.method, 512, (8, 8), model)
        engine = BareEngine(Objective(checkpoint.build(parts), config.method, config.objective), config.optim)
        captions = ["a small red circle", "a small red circle left of a square"] * 4
        batch = Batch(list(range(8)), captions, torch.zeros(8, 64, dtype=torch.int64), list(range(8)))
        assert (
            train_step(engine, batch, config, SpikeGuard(3.0), lr=0.0, in_warm_start=False)["captions_cut"] == fraction
        )


def test_the_page_is_current():
    page = ROOT / "docs" / "training_metrics.md"
    assert page.read_text() == step_metrics.markdown(), (
        "run python -m emage.training.step_metrics > docs/training_metrics.md"
    )
