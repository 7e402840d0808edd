import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from emage.config import CheckpointConfig, OptimConfig, TrainConfig, preset
from emage.data.token_table import Batch, TokenTable
from emage.methods import METHODS
from emage.methods.masking import MASK, ImageRng, draw_mask
from emage.model import checkpoint
from emage.training.loop import (
    BareEngine,
    Objective,
    _dropped_captions,
    accumulation,
    context_gain,
    fit,
    micro_batches,
    sum_over_ranks,
    train_step,
)
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
def test_every_method_learns_something_in_twenty_steps(token_table: Path, method: str):
    losses, _ = run(token_table, method=method)
    assert len(losses) == 20 and losses[-1] < 0.6 * losses[0]


def test_the_same_seed_gives_the_same_losses(token_table: Path):
    assert run(token_table)[0] == run(token_table)[0]


@pytest.mark.parametrize("method", ["iterative3", "autoregressive"])
def test_blocks_that_are_computed_again_change_no_bit(token_table: Path, method: str):
    kept, again = (run(token_table, recompute=recompute, method=method, optim={"steps": 6}) for recompute in (0, 1))
    assert kept[0] == again[0]
    weights = zip(kept[1].state_dict().values(), again[1].state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.chaos
def test_compiled_a_run_takes_the_same_steps(token_table: Path):
    plain, fused = (run(token_table, compile=compile, optim={"steps": 4})[0] for compile in (False, True))
    assert fused == pytest.approx(plain, rel=1e-3)


@pytest.mark.parametrize("method", list(METHODS))
def test_accumulated_micro_batches_take_the_step_of_the_whole_batch(token_table: Path, method: str):
    """However unequal the masks of the micro-batches are: every token weighs the same."""
    plain = {"objective": {"warm_start": 0.0, "first_pass": "argmax"}, "method": method}
    whole, _ = run(token_table, optim={"steps": 5}, **plain)
    parts, _ = run(token_table, optim={"steps": 5, "micro_batch_size": 3}, **plain)
    assert parts == pytest.approx(whole, rel=1e-4)


def test_rows_are_cut_into_as_many_micro_batches_on_every_rank():
    optim = OptimConfig(batch_size=1024, micro_batch_size=16)
    assert [accumulation(optim, ranks) for ranks in (1, 48, 64)] == [64, 2, 1]
    shares = [1024 * (rank + 1) // 48 - 1024 * rank // 48 for rank in range(48)]
    assert set(shares) == {21, 22}
    for rows in (21, 22):
        sizes = [part.stop - part.start for part in micro_batches(optim, rows, 48)]
        assert len(sizes) == 2 and sum(sizes) == rows and max(sizes) <= 16


def test_a_step_says_what_it_saw(token_table: Path):
    """The figures of a step of iterative1, counted by hand from its masks."""
    config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"}, method="iterative1")
    rows = TokenTable(str(token_table), seed=0)
    network = checkpoint.build(CheckpointConfig("iterative1", 512, (8, 8), config.model))
    engine = BareEngine(Objective(network, "iterative1", config.objective), config.optim)
    batch = rows.batch(0, 8)
    masked = draw_mask(64, "linear", ImageRng(batch.seeds))
    with torch.no_grad():
        logits = network.decoder(
            batch.y.masked_fill(masked, MASK), network.read(network.text.tokenize(batch.captions)[0])
        )
    nats = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.y, reduction="none")
    values = train_step(engine, batch, config, SpikeGuard(3.0), lr=1e-3, in_warm_start=False)
    assert values["loss"] == pytest.approx(nats[masked].mean().item(), rel=1e-5)
    assert values["below_chance"] == pytest.approx(math.log(512) - values["loss"])
    right = logits.argmax(-1) == batch.y
    assert values["accuracy_masked"] == pytest.approx(right[masked].float().mean().item())
    assert values["accuracy_visible"] == pytest.approx(right[~masked].float().mean().item())
    share = masked.float().mean(1)
    for low, high in ((0, 25), (25, 50), (50, 75), (75, 100)):
        of = (share > low / 100) & (share <= high / 100)
        if of.any():
            expected = nats[of][masked[of]].mean().item()
            assert values[f"loss_masked_{high}"] == pytest.approx(expected, rel=1e-5)
        else:
            assert f"loss_masked_{high}" not in values
    assert values["skipped"] == 0


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_step_without_a_usable_loss_changes_nothing(token_table: Path, broken: str):
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


def test_a_frozen_encoder_gives_the_same_bits_with_what_it_keeps_and_without(token_table: Path):
    """A run that goes on begins with nothing kept, and reads captions that the unbroken run has read before."""
    found = []
    for forgets in (False, True):
        settings = {"model": {"text_frozen": True}, "optim": {"steps": 30, "micro_batch_size": 3}}
        config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"}, **settings)
        torch.manual_seed(0)
        network = checkpoint.build(CheckpointConfig(config.method, 512, (8, 8), config.model))
        losses: list[float] = []

        def on_step(step: int, values: dict, _, network=network, losses=losses, forgets=forgets) -> None:
            losses.append(values["loss"])
            if forgets and step == 27:  # in the second epoch of 200 rows
                network.load_state_dict(network.state_dict())

        engine = BareEngine(Objective(network, config.method, config.objective), config.optim)
        fit(engine, TokenTable(str(token_table), seed=0), config, on_step)
        found.append(losses)
    assert found[0] == found[1]


def test_training_ends_early_where_it_is_told_to(token_table: Path):
    config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"})
    network = checkpoint.build(CheckpointConfig("iterative1", 512, (8, 8), config.model))
    engine, steps = BareEngine(Objective(network, "iterative1", config.objective), config.optim), []
    fit(engine, TokenTable(str(token_table), seed=0), config, lambda step, *_: steps.append(step) or step == 3)
    assert steps == [1, 2, 3]


def test_warm_start_trains_number_1_first(token_table: Path):
    alone, _ = run(token_table, method="iterative1", optim={"steps": 10})
    warm, _ = run(token_table, method="iterative3", objective={"warm_start": 0.5}, optim={"steps": 10})
    assert warm[:5] == alone[:5] and warm[5:] != alone[5:]


def test_the_average_follows_the_weights():
    layer = torch.nn.Linear(1, 1, bias=False)
    average = make_ema(layer, decay=0.25)
    expected = 0.0
    for n, value in enumerate([1.0, 2.0, 4.0, 8.0]):
        torch.nn.init.constant_(layer.weight, value)
        average.update_parameters(layer)
        decay = min(0.25, (1 + n) / (10 + n))
        expected = value if n == 0 else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)


def test_training_updates_the_ema_after_every_step(token_table: Path):
    config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"}, optim={"steps": 3})
    rows = TokenTable(str(token_table), seed=0)
    network = checkpoint.build(CheckpointConfig("iterative1", 512, (8, 8), config.model))
    average, head = make_ema(network, decay=0.9), network.decoder.head.weight
    seen: list[torch.Tensor] = []
    engine = BareEngine(Objective(network, "iterative1", config.objective), config.optim)
    fit(engine, rows, config, lambda *_: seen.append(head.detach().clone()), average=average)
    expected = seen[0]
    for n, weight in enumerate(seen[1:], start=1):
        expected = expected.lerp(weight, 1 - (1 + n) / (10 + n))
    assert int(average.n_averaged) == 3
    assert torch.allclose(average.module.decoder.head.weight, expected, atol=1e-6)


def test_caption_dropout_drops_the_share_it_is_told():
    batch = Batch(list(range(4000)), ["a cat"] * 4000, torch.zeros(4000, 1), list(range(4000)))
    share = _dropped_captions(batch, 0.1).count("") / 4000
    assert 0.08 < share < 0.12
    assert _dropped_captions(batch, 0.0) == batch.captions


class _Text:
    def tokenize(self, captions):
        return torch.zeros(len(captions), 1), torch.zeros(len(captions), dtype=torch.bool)


class _Decoder:
    """Answers with the truth where it was shown any of it (`reads`), or never."""

    def __init__(self, y: torch.Tensor, reads: bool):
        self.y, self.reads = y, reads
        self.head = torch.nn.Linear(1, 1)

    def __call__(self, shown: torch.Tensor, context) -> torch.Tensor:
        knows = self.reads and (shown >= 0).any()
        return torch.nn.functional.one_hot(self.y if knows else (self.y + 1) % 5, 5).float()


@pytest.mark.parametrize("reads", [True, False])
def test_context_gain_tells_a_network_that_reads_from_one_that_does_not(reads: bool):
    y = torch.randint(0, 5, (4, 16))
    network = type("Network", (), {"text": _Text(), "decoder": _Decoder(y, reads), "read": lambda self, ids: None})()
    probe = context_gain(network, Batch([0] * 4, [""] * 4, y, [1, 2, 3, 4]), rows=4)
    assert probe["context_gain"] == float(reads)


def test_captions_that_are_cut_are_counted(token_table: Path):
    # 8 positions: begin, 6 words, end; the longer caption has 8 words.
    config = preset(TrainConfig, "tiny", data={"path": str(token_table)}, run={"output": "unused"})
    for length, share in ((77, 0.0), (8, 0.5)):
        model = replace(config.model, text_length=length)
        parts = CheckpointConfig(config.method, 512, (8, 8), model)
        engine = BareEngine(Objective(checkpoint.build(parts), config.method, config.objective), config.optim)
        captions = ["a small red circle", "a small red circle left of a square"] * 4
        batch = Batch(list(range(8)), captions, torch.zeros(8, 64, dtype=torch.int64), list(range(8)))
        assert train_step(engine, batch, config, SpikeGuard(3.0), lr=0.0, in_warm_start=False)["captions_cut"] == share


def test_a_sum_over_ranks_leaves_what_one_rank_has(tmp_path: Path):
    """Of several ranks: tests/on_ray/training/test_deepspeed_engine.py."""
    x = torch.tensor([1.0, 2.0])
    assert torch.equal(sum_over_ranks(x, torch.device("cpu")), x)
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        assert torch.equal(sum_over_ranks(x, torch.device("cpu")), x)
    finally:
        dist.destroy_process_group()
