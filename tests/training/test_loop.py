"""The training loop with plain PyTorch: the same losses whatever the micro-batches, skipped steps, EMA."""

import math
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from emage.config import CheckpointConfig, OptimConfig, TrainConfig, preset
from emage.data.token_table import Batch, TokenTable
from emage.methods import METHODS
from emage.model import checkpoint
from emage.training.engine import BareEngine, Objective
from emage.training.loop import _drop_captions, accumulation, fit, micro_batches, sum_over_ranks
from emage.training.optimizer import make_ema
from emage.training.spike_guard import SpikeGuard


def run(table: Path, compile: bool = False, recompute: bool = False, **values) -> tuple[list[float], Objective]:
    """A tiny training run with PyTorch alone; the losses and what was trained."""
    config = preset(TrainConfig, "tiny", data={"path": str(table)}, run={"output": "unused"}, **values)
    rows = TokenTable(str(table), seed=0)
    torch.manual_seed(0)
    parts = CheckpointConfig(config.method, rows.tokenizer.vocab_size, rows.tokenizer.grid, config.model)
    objective = Objective(checkpoint.build(parts), config.method, config.objective, compile=compile)
    objective.network.decoder.recompute = recompute
    losses: list[float] = []
    fit(BareEngine(objective, config.optim), rows, config, lambda step, metrics, batch: losses.append(metrics["loss"]))
    return losses, objective


@pytest.mark.parametrize("method", list(METHODS))
def test_every_method_learns_in_twenty_steps(token_table: Path, method: str):
    losses, _ = run(token_table, method=method)
    assert len(losses) == 20 and losses[-1] < 0.6 * losses[0]


def test_the_same_seed_gives_the_same_losses(token_table: Path):
    assert run(token_table)[0] == run(token_table)[0]


@pytest.mark.parametrize("method", ["iterative3", "autoregressive"])
def test_recomputed_blocks_give_the_same_bits(token_table: Path, method: str):
    kept, again = (run(token_table, recompute=recompute, method=method, optim={"steps": 6}) for recompute in (0, 1))
    assert kept[0] == again[0]
    weights = zip(kept[1].state_dict().values(), again[1].state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.chaos
def test_a_compiled_run_has_the_same_losses(token_table: Path):
    plain, compiled = (run(token_table, compile=compile, optim={"steps": 4})[0] for compile in (False, True))
    assert compiled == pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("method", list(METHODS))
def test_accumulated_micro_batches_have_the_losses_of_the_whole_batch(token_table: Path, method: str):
    """However unequal the masks of the micro-batches are: every token weighs the same."""
    plain = {"objective": {"warm_start": 0.0, "first_pass": "argmax"}, "method": method}
    whole, _ = run(token_table, optim={"steps": 5}, **plain)
    parts, _ = run(token_table, optim={"steps": 5, "micro_batch_size": 3}, **plain)
    assert parts == pytest.approx(whole, rel=1e-4)


class MaskEngine(BareEngine):
    """Remembers the masks of every micro-batch."""

    def forward(self, *args):
        loss = super().forward(*args)
        self.masks = [*getattr(self, "masks", []), loss.masked]
        return loss


def test_a_resumed_curriculum_has_the_masks_of_the_run_that_was_not_stopped(token_table: Path):
    values = {"method": "fully_nar", "objective": {"mask_curriculum": 0.8}, "optim": {"steps": 10}}
    config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"}, **values)
    rows = TokenTable(str(token_table), seed=0)

    def masks(start: int) -> list[torch.Tensor]:
        network = checkpoint.build(CheckpointConfig("fully_nar", 512, (8, 8), config.model))
        engine = MaskEngine(Objective(network, "fully_nar", config.objective), config.optim)
        fit(engine, rows, config, lambda *_: None, start=start)
        return engine.masks

    whole, resumed = masks(0), masks(6)
    assert [mask.sum(1).unique().tolist() for mask in whole] == [
        [1],
        [8],
        [16],
        [24],
        [32],
        [40],
        [48],
        [56],
        [64],
        [64],
    ]
    assert len(resumed) == 4 and all(torch.equal(a, b) for a, b in zip(whole[6:], resumed, strict=True))


def test_every_token_of_the_curriculum_weighs_the_same_in_micro_batches(token_table: Path):
    values = {"method": "fully_nar", "objective": {"mask_curriculum": 0.5}}
    whole, _ = run(token_table, optim={"steps": 4}, **values)
    parts, _ = run(token_table, optim={"steps": 4, "micro_batch_size": 3}, **values)
    assert parts == pytest.approx(whole, rel=1e-4)


def test_every_rank_has_equally_many_micro_batches():
    optim = OptimConfig(batch_size=1024, micro_batch_size=16)
    assert [accumulation(optim, ranks) for ranks in (1, 48, 64)] == [64, 2, 1]
    rows = [1024 * (rank + 1) // 48 - 1024 * rank // 48 for rank in range(48)]
    assert set(rows) == {21, 22}
    for rows in (21, 22):
        sizes = [part.stop - part.start for part in micro_batches(optim, rows, 48)]
        assert len(sizes) == 2 and sum(sizes) == rows and max(sizes) <= 16


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_skipped_step_changes_nothing(token_table: Path, broken: str):
    config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"}, optim={"steps": 4})
    network = checkpoint.build(CheckpointConfig("iterative1", 512, (8, 8), config.model))
    engine, guard = BareEngine(Objective(network, "iterative1", config.objective), config.optim), SpikeGuard(3.0)
    head = network.decoder.head.weight
    if broken == "gradient":
        head.register_hook(lambda gradient: gradient * (math.nan if guard.skipped == 0 and guard.noted else 1))
    seen: list[tuple[float, torch.Tensor]] = []

    def on_step(step: int, values: dict, batch: Batch) -> None:
        if broken == "loss" and step == 1:
            guard.mean = -10.0  # so that the next loss is a spike
        seen.append((values["skipped"], head.detach().clone()))
        if values["skipped"]:
            guard.noted = 0

    fit(engine, TokenTable(str(token_table), seed=0), config, on_step, guard=guard)
    assert [skipped for skipped, _ in seen] == [0, 1, 0, 0] and guard.skipped == 1
    weights = [weight for _, weight in seen]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2]) and all(w.isfinite().all() for w in weights)


def test_a_frozen_encoder_gives_the_same_bits_with_and_without_its_cache(token_table: Path):
    """A resumed run starts with an empty cache, and encodes captions that the unbroken run took from its own."""
    found = []
    for is_cleared in (False, True):
        settings = {"model": {"text_frozen": True}, "optim": {"steps": 30, "micro_batch_size": 3}}
        config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"}, **settings)
        torch.manual_seed(0)
        network = checkpoint.build(CheckpointConfig(config.method, 512, (8, 8), config.model))
        losses: list[float] = []

        def on_step(step: int, values: dict, _, network=network, losses=losses, is_cleared=is_cleared) -> None:
            losses.append(values["loss"])
            if is_cleared and step == 27:  # in the second epoch of 200 rows
                network.load_state_dict(network.state_dict())

        engine = BareEngine(Objective(network, config.method, config.objective), config.optim)
        fit(engine, TokenTable(str(token_table), seed=0), config, on_step)
        found.append(losses)
    assert found[0] == found[1]


def test_training_ends_early_if_on_step_returns_true(token_table: Path):
    config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"})
    network = checkpoint.build(CheckpointConfig("iterative1", 512, (8, 8), config.model))
    engine, steps = BareEngine(Objective(network, "iterative1", config.objective), config.optim), []
    fit(engine, TokenTable(str(token_table), seed=0), config, lambda step, *_: steps.append(step) or step == 3)
    assert steps == [1, 2, 3]


def test_the_warm_start_trains_by_iterative1(token_table: Path):
    alone, _ = run(token_table, method="iterative1", optim={"steps": 10})
    warm, _ = run(token_table, method="iterative3", objective={"warm_start": 0.5}, optim={"steps": 10})
    assert warm[:5] == alone[:5] and warm[5:] != alone[5:]


def test_training_updates_the_ema_after_every_step(token_table: Path):
    config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"}, optim={"steps": 3})
    rows = TokenTable(str(token_table), seed=0)
    network = checkpoint.build(CheckpointConfig("iterative1", 512, (8, 8), config.model))
    average, head = make_ema(network, decay=0.9), network.decoder.head.weight
    seen: list[torch.Tensor] = []
    engine = BareEngine(Objective(network, "iterative1", config.objective), config.optim)
    fit(engine, rows, config, lambda *_: seen.append(head.detach().clone()), ema=average)
    expected = seen[0]
    for n, weight in enumerate(seen[1:], start=1):
        expected = expected.lerp(weight, 1 - (1 + n) / (10 + n))
    assert int(average.n_averaged) == 3
    assert torch.allclose(average.module.decoder.head.weight, expected, atol=1e-6)


def test_caption_dropout_drops_this_fraction():
    batch = Batch(list(range(4000)), ["a cat"] * 4000, torch.zeros(4000, 1), list(range(4000)))
    fraction = _drop_captions(batch, 0.1).count("") / 4000
    assert 0.08 < fraction < 0.12
    assert _drop_captions(batch, 0.0) == batch.captions


def test_a_sum_over_one_rank_changes_nothing(tmp_path: Path):
    """Of several ranks: tests/on_ray/training/test_deepspeed_engine.py."""
    x = torch.tensor([1.0, 2.0])
    assert torch.equal(sum_over_ranks(x, torch.device("cpu")), x)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert torch.equal(sum_over_ranks(x, torch.device("cpu")), x)
    finally:
        dist.destroy_process_group()
