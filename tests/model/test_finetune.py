"""Fine-tuning starts from a checkpoint's weights; a checkpoint that does not fit is an error of one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from local_hub import LocalHub

from emage import tokenizers
from emage.config import CheckpointConfig, ModelConfig
from emage.data.schema import TokenizerInfo
from emage.model import checkpoint, finetune
from emage.model.transformer import Network
from emage.utils.errors import InputError

DEMO = "vqgan-demo-f8-512"


def settings(method: str = "iterative3", vocab_size: int = 512, grid=(8, 8), **model: Any) -> CheckpointConfig:
    """Return the settings of `tiny_model`, with some replaced."""
    values = {"width": 64, "depth": 2, "num_heads": 2, "text": "clip_tiny", "text_length": 24}
    return CheckpointConfig(method, vocab_size, grid, ModelConfig(**values | model))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def made_by() -> TokenizerInfo:
    return checkpoint.describe(tokenizers.load(DEMO))


def logits(network: Network, text_length: int = 24) -> torch.Tensor:
    ids = torch.arange(2 * text_length).view(2, text_length)
    y = torch.arange(128).view(2, 64)
    with torch.no_grad():
        return network.eval().decoder(y, network.encode_text(ids))


@pytest.mark.parametrize("method", ["iterative3", "iterative1", "iterative2", "fully_nar"])
def test_fine_tuning_starts_from_the_checkpoints_weights(method: str, folder: Path, made_by: TokenizerInfo):
    config = settings(method)
    network = checkpoint.build(config)
    wanted = logits(checkpoint.load(folder)[0])
    assert not torch.equal(logits(network), wanted)
    record = finetune.start_from(network, folder, config, made_by)
    assert torch.equal(logits(network), wanted)
    assert record["step"] == 0 and record["tokenizer"]["name"] == DEMO


def test_a_frozen_encoder_has_the_checkpoints_weights_and_stays_frozen(folder: Path, made_by: TokenizerInfo):
    config = settings(text_frozen=True)
    network = checkpoint.build(config)
    ids = network.text.tokenize(["a red square"])[0]
    before = network.text(ids)  # kept, and not to be used again
    finetune.start_from(network, folder, config, made_by)
    after, wanted = network.text(ids), checkpoint.load(folder)[0].text(ids)
    torch.testing.assert_close(after, wanted)  # not the same bits: without gradients PyTorch takes a faster way
    assert not torch.allclose(after, before, atol=1e-3)
    assert not any(p.requires_grad for p in network.text.parameters())
    assert all(p.requires_grad for p in network.decoder.parameters())


def test_fewer_text_positions_are_the_first_ones(folder: Path, made_by: TokenizerInfo):
    config = settings(text_length=16)
    network, whole = checkpoint.build(config), checkpoint.load(folder)[0]
    finetune.start_from(network, folder, config, made_by)
    ids = torch.arange(24)[None]
    # CLIP's text tower is causal: its states of the first positions do not depend on the others.
    torch.testing.assert_close(network.text(ids[:, :16]), whole.text(ids)[:, :16])
    assert network.text.tokenize(["a red square"])[0].shape == (1, 16)


def test_berts_vocabulary_is_loaded_too(tmp_path: Path, made_by: TokenizerInfo):
    config = settings(text="bert_tiny")
    network = checkpoint.build(config)
    network.text._use([*network.text._words[:-1], "square"])
    checkpoint.save(tmp_path / "model", network, tokenizers.load(DEMO), config, {"step": 3})
    shorter = settings(text="bert_tiny", text_length=8)
    fresh = checkpoint.build(shorter)
    assert finetune.start_from(fresh, tmp_path / "model", shorter, made_by)["step"] == 3
    ids, truncated = fresh.text.tokenize(["square"])
    assert ids.tolist() == [[2, len(network.text._words) - 1, 3, 0, 0, 0, 0, 0]] and not truncated.any()
    assert torch.equal(logits(network.to(torch.float32), 8), logits(fresh, 8))


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"width": 128}, "model.width=64 in the checkpoint and 128 here: set model.width=64"),
        ({"depth": 1}, "model.depth=2 in the checkpoint and 1 here: set model.depth=2"),
        ({"num_heads": 4}, "model.num_heads=2 in the checkpoint and 4 here: set model.num_heads=2"),
        ({"mlp": "gelu"}, "model.mlp=geglu in the checkpoint and gelu here: set model.mlp=geglu"),
        (
            {"positions": "learned"},
            "model.positions=axial in the checkpoint and learned here: set model.positions=axial",
        ),
        ({"text": "bert_tiny"}, "model.text=clip_tiny in the checkpoint and bert_tiny here: set model.text=clip_tiny"),
        (
            {"text_length": 32},
            "model.text_length=24 in the checkpoint and 32 here: set model.text_length=24 or less",
        ),
        (
            {"method": "autoregressive"},
            "method=iterative3 in the checkpoint and autoregressive here: an autoregressive network attends to "
            "earlier positions only, the others to all; set method=iterative3 or start from another checkpoint",
        ),
        ({"vocab_size": 1024}, "512 codes in the checkpoint and 1024 here: ingest with its tokenizer"),
        (
            {"grid": (16, 4)},
            "grid 8x8 in the checkpoint and 16x4 in the token table: ingest images of the size it was trained on "
            "(download.image_size)",
        ),
    ],
)
def test_a_checkpoint_of_another_network(other: dict, message: str, folder: Path, made_by: TokenizerInfo):
    config = settings(**other)
    network = checkpoint.build(config)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(InputError) as error:
        finetune.start_from(network, folder, config, made_by)
    assert str(error.value) == f"init={folder}: {message}"
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_an_autoregressive_network_starts_from_an_autoregressive_one(tmp_path: Path, made_by: TokenizerInfo):
    config = settings("autoregressive")
    network, fresh = checkpoint.build(config), checkpoint.build(config)
    checkpoint.save(tmp_path / "model", network, tokenizers.load(DEMO), config, {"step": 0})
    finetune.start_from(fresh, tmp_path / "model", config, made_by)
    assert torch.equal(logits(fresh), logits(network))
    with pytest.raises(InputError, match="method=autoregressive in the checkpoint and iterative1 here"):
        finetune.starting_point(tmp_path / "model", settings("iterative1"), made_by)


def test_tokens_of_another_tokenizer(folder: Path, made_by: TokenizerInfo):
    with pytest.raises(InputError) as error:
        finetune.starting_point(folder, settings(), replace(made_by, sha256="5" * 64))
    line = str(error.value)
    start = f"init={folder}: tokenizer {DEMO} ({made_by.sha256[:12]}) in the checkpoint and {DEMO} (555555555555) made"
    assert line.startswith(start) and "\n" not in line
    # The command in the error makes a table that fits.
    name, weights = (word.partition("=")[2] for word in line.split()[-2:])
    assert checkpoint.describe(tokenizers.load(name, weights=weights)).sha256 == made_by.sha256


def test_a_damaged_checkpoint_is_not_started_from(folder: Path, made_by: TokenizerInfo):
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (folder / "model.safetensors").write_bytes(weights)
    with pytest.raises(InputError, match=r"model\.safetensors is not the one that manifest\.json lists"):
        finetune.start_from(checkpoint.build(settings()), folder, settings(), made_by)


def test_no_checkpoint_to_start_from(tmp_path: Path, made_by: TokenizerInfo):
    with pytest.raises(InputError, match="is neither a checkpoint folder nor a hub id"):
        finetune.starting_point(tmp_path / "none", settings(), made_by)
    with pytest.raises(InputError, match="is not a checkpoint folder"):
        finetune.starting_point(tmp_path, settings(), made_by)


def test_a_checkpoint_on_the_hub(folder: Path, made_by: TokenizerInfo, hub: LocalHub):
    network = checkpoint.build(settings())
    hub.commit("someone/model", "main", {file.name: file.read_bytes() for file in folder.iterdir()})
    finetune.start_from(network, "someone/model", settings(), made_by)
    with pytest.raises(InputError) as error:
        finetune.starting_point("someone/model", settings(width=32), made_by)
    assert torch.equal(logits(network), logits(checkpoint.load(folder)[0]))
    assert str(error.value).startswith("init=someone/model: model.width=64 in the checkpoint and 32 here")
