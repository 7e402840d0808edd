"""Activations agree with what autograd keeps, the other sizes with a calculation by hand."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from planned_runs import MODELS, Tokens, paper, step
from torch.autograd.graph import saved_tensors_hooks

from emage.config import TrainConfig
from emage.training.estimate.gpus import GIB
from emage.training.estimate.memory_and_disk import (
    RESERVED_BYTES,
    activation_bytes,
    checkpoint_sizes,
    gpu_memory,
    largest_micro_batch,
)
from emage.training.estimate.parameters_and_flops import build_network, count_parameters


def saved_bytes(config: TrainConfig, tokens: Tokens, batch: int) -> int:
    """Return the bytes that autograd keeps for the backward pass, without weights, each piece of memory once."""
    objective, arguments = step(config, tokens, batch)
    objective.network.decoder.recompute = config.run.recompute
    weights = {p.untyped_storage().data_ptr() for p in objective.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()  # kept, or its address would be used again
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
    estimate = activation_bytes(build_network(config, tokens), precision)
    # The difference of two batches: casts of the weights are kept as well, once.
    kept = (saved_bytes(config, tokens, 12) - saved_bytes(config, tokens, 4)) / 8
    assert 1 / 1.2 < estimate / kept < 1.2


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recomputed_blocks_keep_only_their_inputs(precision: Any):
    config = replace(paper(run={"precision": precision}), model=replace(MODELS["clip"], width=64, depth=6))
    tokens = Tokens(64, (8, 8))
    network = build_network(config, tokens)
    estimate = activation_bytes(network, precision, recompute=True)
    again = replace(config, run=replace(config.run, recompute=True))
    kept = (saved_bytes(again, tokens, 12) - saved_bytes(again, tokens, 4)) / 8
    # At the peak one block also has its activations, in the backward pass, after this was measured.
    whole = activation_bytes(network, precision)
    assert kept < 1.2 * estimate and estimate < 0.7 * whole
    assert gpu_memory(again, network, 4).activations == 4 * estimate


def test_zero_divides_by_hand():
    config = paper(run={"num_workers": 8, "precision": "float32"})
    network = build_network(config, Tokens())
    p = 4 * count_parameters(network).trainable

    def parts(stage: int) -> list[int]:
        found = gpu_memory(replace(config, run=replace(config.run, zero_stage=stage)), network, 1)  # type: ignore[arg-type]
        return [found.weights, found.gradients, found.optimizer, found.buffers]

    assert p % 8 == 0
    assert parts(0) == [p, p, 2 * p, 0]
    assert parts(1) == [p, p, 3 * p // 8, 200_000_000]
    assert parts(2) == [p, p // 8, 3 * p // 8, 200_000_000]


def test_a_frozen_encoder_has_weights_and_no_gradients():
    trained, frozen = paper(), paper(model={"text_frozen": True})
    text = 4 * count_parameters(build_network(trained, Tokens())).text
    full, less = (gpu_memory(c, build_network(c, Tokens()), 0) for c in (trained, frozen))
    assert full.weights == less.weights and full.gradients - less.gradients == text
    assert (full.text_states, less.text_states) == (0, GIB)


def test_the_largest_micro_batch_fits_and_one_more_does_not():
    config = paper(run={"num_workers": 64})
    network = build_network(config, Tokens())
    for memory_bytes in (16 * GIB, 32 * GIB):
        largest = largest_micro_batch(config, network, memory_bytes)
        assert largest > 0
        assert gpu_memory(config, network, largest).total + RESERVED_BYTES <= memory_bytes
        assert gpu_memory(config, network, largest + 1).total + RESERVED_BYTES > memory_bytes
    assert largest_micro_batch(config, network, 4 * GIB) == 0


def test_disk_by_hand():
    config = paper(run={"zero_stage": 0, "checkpoint_every": 10, "keep": 2, "keep_every": 30}, optim={"steps": 75})
    p = count_parameters(build_network(config, Tokens())).total
    assert checkpoint_sizes(config, build_network(config, Tokens())) == (4 * p, 12 * p, 4)  # 30, 60, 70 and 75
    averaged = replace(config, run=replace(config.run, zero_stage=2), optim=replace(config.optim, ema=0.999))
    assert checkpoint_sizes(averaged, build_network(averaged, Tokens())).resume == 4 * (p + 2 * p + p)
