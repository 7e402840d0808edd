"""FLOP agree with the counts of PyTorch, parameters with those of built networks."""

from dataclasses import replace
from typing import Any

import pytest
from planned_runs import MODELS, TINY, B, Tokens, paper, step
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from emage.config import ModelConfig, TrainConfig
from emage.methods import METHODS
from emage.model.text.state_cache import TRAINING_BATCH
from emage.training.estimate import parameters_and_flops
from emage.training.estimate.parameters_and_flops import (
    build_network,
    count_parameters,
    decoder_flops,
    flops_per_sample,
    run_flops,
)


def counted_flops(config: TrainConfig, tokens: Tokens, in_warm_start: bool) -> int:
    objective, arguments = step(config, tokens)
    # The counter counts the matrix products of the plain kernel, and does not support the CPU's fused kernels.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        objective(*arguments, in_warm_start).total.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_flops_are_those_that_pytorch_counts(method: Any, model: str):
    config = paper(method=method)
    config = replace(config, model=MODELS[model])
    tokens = Tokens(11, (4, 3))
    network = build_network(config, tokens)
    flops = flops_per_sample(network, method) * B
    if network.text.frozen:  # it encodes captions that are not in its cache in batches of TRAINING_BATCH
        flops += parameters_and_flops._text_flops(network) * (TRAINING_BATCH - B)
    assert flops == counted_flops(config, tokens, in_warm_start=False)


@pytest.mark.parametrize("method", ["iterative2", "iterative3"])
def test_warm_start_steps_have_no_first_pass(method: Any):
    config = replace(paper(method=method), model=TINY)
    tokens = Tokens(11, (4, 3))
    network = build_network(config, tokens)
    warm = flops_per_sample(network, method, in_warm_start=True)
    assert warm * B == counted_flops(config, tokens, in_warm_start=True)
    assert warm == flops_per_sample(network, "iterative1")


def test_the_flops_of_a_run_count_its_warm_start():
    config = replace(paper(objective={"warm_start": 0.25}, optim={"steps": 100, "batch_size": 8}), model=TINY)
    network = build_network(config, Tokens(11, (4, 3)))
    warm, full = (flops_per_sample(network, "iterative3", in_warm_start=flag) for flag in (True, False))
    assert run_flops(config, network) == 200 * warm + 600 * full


@pytest.mark.parametrize("method", ["iterative1", "autoregressive", "parallel_autoregressive"])
def test_methods_with_one_pass_have_no_warm_start(method: Any):
    config = replace(
        paper(method=method, objective={"warm_start": 0.6}, optim={"steps": 10, "batch_size": 8}), model=TINY
    )
    network = build_network(config, Tokens(11, (4, 3)))
    assert run_flops(config, network) == 80 * flops_per_sample(network, method)


def test_flops_of_a_layer_by_hand():
    # D 4, one layer, GELU of width 8, 2 x 1 positions, 5 codes, S 3 of text width 64: multiply-adds of one forward pass
    model = ModelConfig(4, 1, 1, "gelu", 2.0, text="clip_tiny", text_length=3)
    network = build_network(replace(paper(), model=model), Tokens(5, (2, 1)))
    positions = 2 * (4 * 12 + 4 * 4 + 4 * 4 + 4 * 4 + 4 * 8 + 8 * 4 + 4 * 5)  # qkv, proj, q, proj, up, down, head
    attention = 2 * (2 * 2 * 4) + 2 * (2 * 3 * 4)
    assert decoder_flops(network) == 2 * (positions + attention)
    assert parameters_and_flops._keys_values_flops(network) == 2 * 3 * 64 * 8


def test_the_papers_model_in_numbers():
    config = paper(run={"num_workers": 64})
    network = build_network(config, Tokens())
    assert 277.3e6 < count_parameters(network).trainable < 277.5e6
    one, three = (flops_per_sample(network, method) for method in ("iterative1", "iterative3"))
    assert 0.29e12 < decoder_flops(network) < 0.33e12  # about 0.3 TFLOP per forward pass
    assert 1.25 < three / one < 4 / 3  # the text is encoded once


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_those_of_the_built_network(model: str):
    config = replace(paper(), model=MODELS[model])
    real = step(config, Tokens(11, (4, 3)))[0].network
    counts = count_parameters(build_network(config, Tokens(11, (4, 3))))
    assert counts.total == sum(p.numel() for p in real.parameters())
    assert counts.decoder == sum(p.numel() for p in real.decoder.parameters())
    assert counts.trainable == sum(p.numel() for p in real.parameters() if p.requires_grad)
    assert (counts.trainable == counts.total) is not config.model.text_frozen
