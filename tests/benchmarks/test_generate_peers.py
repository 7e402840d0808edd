"""The peers' benchmark: their loops run offline, a step is one forward pass, sizes are as published.

Skipped where the peers are not installed: only `make bench` installs them.
"""

import sys

import pytest
import torch
from torch import nn

SCRIPT = "generate_peers.py"
REASON = "only `make bench` installs the peers"
BATCH = 2


@pytest.fixture
def small_amused(benchmark, monkeypatch):
    pytest.importorskip("diffusers", reason=REASON)
    transformer = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    convolutions = {"in_channels": 16, "block_out_channels": 16, "block_num_heads": 2, "num_res_blocks": 1}
    monkeypatch.setattr(
        benchmark, "AMUSED_TRANSFORMER", {**benchmark.AMUSED_TRANSFORMER, **transformer, **convolutions}
    )
    vqvae = {"block_out_channels": (32,) * 5, "layers_per_block": 1, "latent_channels": 8}
    monkeypatch.setattr(benchmark, "AMUSED_VQVAE", {**benchmark.AMUSED_VQVAE, **vqvae})
    text = {"num_hidden_layers": 1, "intermediate_size": 32}
    monkeypatch.setattr(benchmark, "AMUSED_TEXT", {**benchmark.AMUSED_TEXT, **text})


@pytest.fixture
def small_muse(benchmark, monkeypatch):
    pytest.importorskip("muse_maskgit_pytorch", reason=REASON)
    monkeypatch.setattr(benchmark, "MUSE_VAE", {"dim": 16, "layers": 2})
    return {"batch": BATCH, "width": 32, "depth": 1, "heads": 2, "vocab_size": 64, "tokens": 16, "steps": 3}


def passes(network: nn.Module) -> list[int]:
    """Filled while `network` works: the rows of each of its passes."""
    rows: list[int] = []
    network.register_forward_pre_hook(lambda module, args: rows.append(len(args[0])))
    return rows


@pytest.mark.parametrize("guidance", [False, True])
def test_amused_generates_with_its_own_pipeline_in_one_forward_pass_per_step(benchmark, small_amused, guidance):
    peer = benchmark.amused("cpu", torch.float32, BATCH, steps=3, guidance=guidance)
    rows = passes(peer.networks[0])
    assert peer.step().shape == (BATCH * (1 + guidance), 8192, 16, 16)
    pixels = peer.generate()
    assert pixels.shape == (BATCH, 3, 256, 256) and pixels.min() >= 0 and pixels.max() <= 1
    assert rows == [BATCH * (1 + guidance)] * (1 + peer.steps)
    assert (peer.tokens, peer.scope, peer.version.split()[0]) == (256, "text to pixels", "diffusers")


def test_amused_with_another_number_of_tokens_has_only_a_step(benchmark, small_amused):
    peer = benchmark.amused("cpu", torch.bfloat16, BATCH, tokens=1024)
    logits = peer.step()
    assert logits.shape == (BATCH, 8192, 32, 32) and logits.dtype == torch.bfloat16
    assert peer.generate is None and peer.tokens == 1024


@pytest.mark.parametrize(("dtype", "flash"), [("float32", True), ("float32", False), ("bfloat16", None)])
def test_muse_generates_with_its_own_loop_in_one_forward_pass_per_step(benchmark, small_muse, dtype, flash, capfd):
    peer = benchmark.muse_maskgit("cpu", getattr(torch, dtype), flash=flash, **small_muse)
    rows = passes(peer.networks[0])
    assert peer.step().shape == (BATCH, 16, 64)
    assert peer.generate().shape == (BATCH, 3, 16, 16)
    assert rows == [BATCH] * (1 + peer.steps)
    assert capfd.readouterr().err == ""  # no progress bar
    assert (peer.tokens, peer.steps, peer.scope) == (16, 3, "text states to pixels")


def test_both_of_muse_s_attentions_are_equal(benchmark, small_muse):
    tiles = benchmark.muse_maskgit("cpu", torch.float32, flash=True, **small_muse)
    plain = benchmark.muse_maskgit("cpu", torch.float32, flash=False, **small_muse)
    plain.networks[0].load_state_dict(tiles.networks[0].state_dict())
    x, context = torch.randn(BATCH, 16, 32), torch.randn(BATCH, 5, 32)
    with torch.inference_mode():
        torch.testing.assert_close(plain.networks[0](x, context=context), tiles.networks[0](x, context=context))


def test_muse_in_float16_has_only_a_step(benchmark, small_muse):
    peer = benchmark.muse_maskgit("cpu", torch.float16, **small_muse)
    assert peer.step().dtype == torch.float16 and peer.generate is None


def test_amused_is_as_large_as_published(benchmark):
    pytest.importorskip("diffusers", reason=REASON)
    peer = benchmark.amused("meta", torch.float32, 1)
    assert peer.parameters == 603_537_664
    assert benchmark.amused("meta", torch.float32, 1, tokens=1024).parameters == peer.parameters


def test_muse_s_parameters_are_those_that_a_step_uses(benchmark, small_muse):
    peer = benchmark.muse_maskgit("meta", torch.float32, batch=1)
    attention = 4 * 768 * 768 + 768 + 2 * 768 + 2 * 64  # projections, norm, null key and value, two scales
    feed_forward = 768 + 3 * 768 * 3072 + 3072  # as wide inside as ours
    codes, positions = (2 * 8192 + 1) * 768, 1024 * 768  # tokens and [MASK] in, logits out
    assert peer.parameters == 12 * (2 * attention + feed_forward) + codes + positions + 2 * 768  # two last norms


@pytest.mark.parametrize(("peer", "package"), [("amused", "diffusers"), ("muse_maskgit", "muse_maskgit_pytorch")])
def test_a_peer_that_is_not_installed_is_an_import_error(benchmark, monkeypatch, peer, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=package):
        getattr(benchmark, peer)("cpu", torch.float32, 1)
