from dataclasses import replace
from typing import Any, NamedTuple

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from emage.config import ModelConfig, TrainConfig, preset
from emage.methods import METHODS
from emage.methods.masking import ImageRng
from emage.model.text.state_cache import READ_AT_ONCE
from emage.model.transformer import Network
from emage.training import estimate as plan
from emage.training.loop import Objective

TINY = ModelConfig(width=32, depth=2, num_heads=2, text="clip_tiny", text_length=8)
B, GIB = 3, 1 << 30


class Tokens(NamedTuple):
    vocab_size: int = 8192
    grid: tuple[int, int] = (32, 32)


def paper(**values: Any) -> TrainConfig:
    return preset(TrainConfig, "paper", data={"path": "t"}, run={"output": "o", **values.pop("run", {})}, **values)


def step(config: TrainConfig, tokens: Tokens, batch: int = B) -> tuple[Objective, tuple]:
    """A real network, and what its loss is called with."""
    torch.manual_seed(0)
    network = Network(config.model, tokens.vocab_size, tokens.grid, causal=METHODS[config.method].CAUSAL)
    y = torch.randint(0, tokens.vocab_size, (batch, tokens.grid[0] * tokens.grid[1]))
    # Short, or they would be cut to the same words, which a frozen encoder reads once.
    ids, _ = network.text.tokenize([f"{i}" for i in range(batch)])
    return Objective(network, config.method, config.objective), (ids, y, ImageRng(range(batch)))


def counted_flops(config: TrainConfig, tokens: Tokens, in_warm_start: bool) -> int:
    objective, arguments = step(config, tokens)
    # The plain kernel is made of products that the counter sees; fused ones for the CPU it does not know.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective(*arguments, in_warm_start).total.backward()
    return counter.get_total_flops()


MODELS = {
    "clip": TINY,
    "bert": replace(TINY, text="bert_tiny"),
    "frozen": replace(TINY, text_frozen=True),
    "bert, frozen": replace(TINY, text="bert_tiny", text_frozen=True),
    "gelu, learned": replace(TINY, mlp="gelu", positions="learned", mlp_ratio=2.0),
}


# --- Work -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_flops_are_those_that_pytorch_counts(method: Any, model: str):
    config = paper(method=method)
    config = replace(config, model=MODELS[model])
    tokens = Tokens(11, (4, 3))
    network = plan.build(config, tokens)
    flops = plan.flops_per_sample(network, method) * B
    if network.text.frozen:  # it reads captions that it has not kept in rounds of so many
        flops += plan._text_flops(network) * (READ_AT_ONCE - B)
    assert flops == counted_flops(config, tokens, in_warm_start=False)


@pytest.mark.parametrize("method", ["iterative2", "iterative3"])
def test_warming_steps_have_no_first_pass(method: Any):
    config = replace(paper(method=method), model=TINY)
    tokens = Tokens(11, (4, 3))
    network = plan.build(config, tokens)
    warm = plan.flops_per_sample(network, method, in_warm_start=True)
    assert warm * B == counted_flops(config, tokens, in_warm_start=True)
    assert warm == plan.flops_per_sample(network, "iterative1")


def test_a_runs_work_has_its_share_of_warming_steps():
    config = replace(paper(objective={"warm_start": 0.25}, optim={"steps": 100, "batch_size": 8}), model=TINY)
    network = plan.build(config, Tokens(11, (4, 3)))
    warm, full = (plan.flops_per_sample(network, "iterative3", in_warm_start=flag) for flag in (True, False))
    assert plan.run_flops(config, network) == 200 * warm + 600 * full


def test_flops_of_a_layer_by_hand():
    # D 4, one layer, GELU of width 8, 2 x 1 places, 5 codes, S 3 of text width 64: multiply-adds of one forward
    model = ModelConfig(4, 1, 1, "gelu", 2.0, text="clip_tiny", text_length=3)
    network = plan.build(replace(paper(), model=model), Tokens(5, (2, 1)))
    places = 2 * (4 * 12 + 4 * 4 + 4 * 4 + 4 * 4 + 4 * 8 + 8 * 4 + 4 * 5)  # qkv, proj, q, proj, up, down, head
    attention = 2 * (2 * 2 * 4) + 2 * (2 * 3 * 4)
    assert plan._decoder_flops(network) == 2 * (places + attention)
    assert plan._read_flops(network) == 2 * 3 * 64 * 8


def test_the_papers_model_in_figures():
    config = paper(run={"num_workers": 64})
    network = plan.build(config, Tokens())
    assert 277.3e6 < plan.parameters(network).trainable < 277.5e6
    one, three = (plan.flops_per_sample(network, method) for method in ("iterative1", "iterative3"))
    assert 0.29e12 < plan._decoder_flops(network) < 0.33e12  # about 0.3 TFLOP a pass
    assert 1.25 < three / one < 4 / 3  # the text encoder is read once


# --- Parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_those_of_the_built_network(model: str):
    config = replace(paper(), model=MODELS[model])
    real = step(config, Tokens(11, (4, 3)))[0].network
    counts = plan.parameters(plan.build(config, Tokens(11, (4, 3))))
    assert counts.total == sum(p.numel() for p in real.parameters())
    assert counts.decoder == sum(p.numel() for p in real.decoder.parameters())
    assert counts.trainable == sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert (counts.trainable == counts.total) is not config.model.text_frozen


# --- Memory -----------------------------------------------------------------------------------------------------------


def saved_bytes(config: TrainConfig, tokens: Tokens, batch: int) -> int:
    """What autograd keeps for the backward pass, weights aside, each piece of memory once."""
    objective, arguments = step(config, tokens, batch)
    objective.network.decoder.recompute = config.run.recompute
    weights = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()  # held on to, or its address would be given out again
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return x

    autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.run.precision == "bfloat16")
    with autocast, saved_tensors_hooks(keep, lambda x: x):
        loss = objective(*arguments, False)
    assert loss.total.requires_grad
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", ["iterative3", "autoregressive"])
def test_activations_are_about_what_autograd_keeps(method: Any, model: str, precision: Any):
    config = replace(
        paper(method=method, run={"precision": precision}), model=replace(MODELS[model], width=64, depth=3)
    )
    tokens = Tokens(64, (8, 8))
    estimate = plan.activation_bytes(plan.build(config, tokens), precision)
    # The difference of two batches: casts of the weights are kept as well, once.
    kept = (saved_bytes(config, tokens, 12) - saved_bytes(config, tokens, 4)) / 8
    assert 1 / 1.2 < estimate / kept < 1.2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_blocks_that_are_computed_again_leave_their_inputs(precision: Any):
    config = replace(paper(run={"precision": precision}), model=replace(MODELS["clip"], width=64, depth=6))
    tokens = Tokens(64, (8, 8))
    network = plan.build(config, tokens)
    estimate = plan.activation_bytes(network, precision, recompute=True)
    again = replace(config, run=replace(config.run, recompute=True))
    kept = (saved_bytes(again, tokens, 12) - saved_bytes(again, tokens, 4)) / 8
    # The one block whose activations there are at the peak is made in the backward pass, after this was taken.
    whole = plan.activation_bytes(network, precision)
    assert kept < 1.2 * estimate and estimate < 0.7 * whole
    assert plan.memory(again, network, 4).activations == 4 * estimate


def test_time_counts_what_is_computed_again():
    once, again = (plan._work_lines(paper(run={"recompute": flag}), plan.build(paper(), Tokens())) for flag in (0, 1))
    days = [float(lines["time"].split(" days")[0]) for lines in (once, again)]
    assert once["work"] == again["work"] and 1.15 < days[1] / days[0] < 1.34


def test_zero_divides_by_hand():
    config = paper(run={"num_workers": 8, "precision": "float32"})
    network = plan.build(config, Tokens())
    p = 4 * plan.parameters(network).trainable

    def parts(stage: int) -> list[int]:
        found = plan.memory(replace(config, run=replace(config.run, zero_stage=stage)), network, 1)  # type: ignore[arg-type]
        return [found.weights, found.gradients, found.optimizer, found.buffers]

    assert p % 8 == 0
    assert parts(0) == [p, p, 2 * p, 0]
    assert parts(1) == [p, p, 3 * p // 8, 200_000_000]
    assert parts(2) == [p, p // 8, 3 * p // 8, 200_000_000]


def test_a_frozen_encoder_has_weights_and_no_gradients():
    trained, frozen = paper(), paper(model={"text_frozen": True})
    text = 4 * plan.parameters(plan.build(trained, Tokens())).text
    full, less = (plan.memory(c, plan.build(c, Tokens()), 0) for c in (trained, frozen))
    assert full.weights == less.weights and full.gradients - less.gradients == text
    assert (full.text_states, less.text_states) == (0, GIB)


def test_the_largest_micro_batch_fits_and_one_more_does_not():
    config = paper(run={"num_workers": 64})
    network = plan.build(config, Tokens())
    for room in (16 * GIB, 32 * GIB):
        most = plan.largest_micro_batch(config, network, room)
        assert most > 0
        assert plan.memory(config, network, most).total + plan.RESERVED <= room
        assert plan.memory(config, network, most + 1).total + plan.RESERVED > room
    assert plan.largest_micro_batch(config, network, 4 * GIB) == 0


# --- Disk -------------------------------------------------------------------------------------------------------------


def test_disk_by_hand():
    config = paper(run={"zero_stage": 0, "checkpoint_every": 10, "keep": 2, "keep_every": 30}, optim={"steps": 75})
    p = plan.parameters(plan.build(config, Tokens())).total
    assert plan.disk(config, plan.build(config, Tokens())) == (4 * p, 12 * p, 4)  # 30, 60, 70 and 75
    averaged = replace(config, run=replace(config.run, zero_stage=2), optim=replace(config.optim, ema=0.999))
    assert plan.disk(averaged, plan.build(averaged, Tokens())).resume == 4 * (p + 2 * p + p)


# --- In words ---------------------------------------------------------------------------------------------------------


def test_rows_are_shared_out_evenly():
    assert plan.rows_per_rank(10, 4) == [2, 3, 2, 3]
    assert plan.rows_per_rank(1024, 64) == [16] * 64


def test_the_plan_of_the_papers_run_in_words():
    lines = dict(_fields(plan.describe(paper(run={"num_workers": 64}), Tokens(), num_rows=280_000_000)))
    assert lines["workers"] == "64 GPUs, ZeRO stage 1, float32"
    assert lines["batch"] == "1,024 images a step: 16 a GPU, in 1 x 16 (accumulation x micro-batch)"
    assert lines["data"] == "512,000,000 images drawn from 280,000,000 rows: 1.83 epochs"
    assert lines["V100 32 GB"].startswith("fits")
    assert "lower optim.micro_batch_size to" in lines["V100 16 GB"]
    assert "64 V100s at 40% (assumed) of 15.7 TFLOP/s" in lines["time"]


def test_days_by_hand():
    config = paper(run={"num_workers": 2}, optim={"steps": 1000})
    run = plan.run_flops(config, plan.build(config, Tokens()))
    days = run / (2 * 0.4 * 15.7e12) / 86_400
    assert dict(_fields(plan.describe(config, Tokens())))["time"].startswith(f"{days:.3g} days on 2 V100s")


def test_ranks_with_unequal_shares_and_a_micro_batch_larger_than_both():
    config = paper(run={"num_workers": 3, "use_gpu": False}, optim={"batch_size": 10, "micro_batch_size": 16})
    lines = dict(_fields(plan.describe(config, Tokens())))
    assert lines["workers"].startswith("3 CPU workers")
    assert lines["batch"].startswith("10 images a step: 3 or 4 a CPU worker, in 1 x 4 ")
    assert "at micro-batch 4" in lines["memory, estimated"]
    assert not any("V100" in name for name in lines) and lines["time"].startswith("not estimated")


def test_passes_of_a_rank_are_equally_large():
    # 20 rows a GPU at no more than 16 a pass: twice 10
    config = paper(run={"num_workers": 2}, optim={"batch_size": 40, "micro_batch_size": 16})
    assert "20 a GPU, in 2 x 10 " in dict(_fields(plan.describe(config, Tokens())))["batch"]


def test_other_precisions_are_planned_for_gpus_that_have_them():
    text = plan.describe(paper(run={"precision": "bfloat16"}), Tokens())
    assert "A100 40 GB" in text and "V100" not in text


def _fields(text: str) -> list[tuple[str, str]]:
    return [(line[:22].strip(), line[22:]) for line in text.splitlines()]
