"""Checkpoint folders: damaged ones and ones that do not fit give a one-line error, the others are loaded."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import local_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from emage import tokenizers
from emage.config import CheckpointConfig, ModelConfig
from emage.data.schema import TokenizerInfo
from emage.model import checkpoint, finetune
from emage.model.transformer import Network
from emage.utils import manifest
from emage.utils.errors import InputError

NAMES = ["config.yaml", "model.safetensors", "tokenizer.safetensors"]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / manifest.NAME).read_text())
    change(record)
    (folder / manifest.NAME).write_text(json.dumps(record))


def seal(folder: Path) -> None:
    """Update the sha256 sums in the manifest to the present files."""
    rewrite(folder, lambda record: record.update(files={name: manifest.sha256(folder / name) for name in NAMES}))


def load_error(folder: Path) -> str:
    """Return the error of `load`: one line that begins with the folder and ends with what to do."""
    with pytest.raises(InputError) as error:
        checkpoint.load(folder)
    start, line, end = f"{folder} is a damaged checkpoint: ", str(error.value), ": copy the whole folder again"
    assert "\n" not in line and len(line) < 1_000
    assert line.startswith(start) and line.endswith(end)
    return line.removeprefix(start).removesuffix(end)


def test_a_whole_folder_loads(folder: Path):
    seal(folder)
    network, tokenizer, config, record = checkpoint.load(folder)
    assert config.vocab_size == tokenizer.vocab_size == 512 and record["step"] == 0 and not network.training


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_must_list_every_file(name: str, folder: Path):
    rewrite(folder, lambda record: record["files"].pop(name))
    assert load_error(folder) == f"manifest.json does not list {name} under files"
    with pytest.raises(InputError, match=f"does not list {name}"):
        checkpoint.check(folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("files", {}, " does not list config.yaml under files"),
        ("files", [], ": files is a list, not a group of keys"),
        ("files", None, ": files is None, not a group of keys"),
        ("files", "model.safetensors", ": files is 'model.safetensors', not a group of keys"),
        ("tokenizer", {}, " does not name the tokenizer it was trained with"),
        ("tokenizer", {"name": "demo"}, " does not name the tokenizer it was trained with"),
        ("tokenizer", None, ": tokenizer is None, not a group of keys"),
        ("tokenizer", {"name": "demo", "sha256": 3}, ": tokenizer.sha256 is 3, not a text"),
        ("data", {"path": ["a"]}, ": data.path is a list, not a text"),
        ("step", True, ": step is True, not a whole number"),
        ("prompts", ["a", 3], ": prompts[1] is 3, not a text"),
        ("metrics", {"loss": "<b>low</b>"}, ": metrics.loss is '<b>low</b>', not a whole number or a number or null"),
        ("scores", {"a": {"figures": {}}}, ": scores.a has no captions"),
    ],
)
def test_a_manifest_with_a_wrong_value(key: str, value: Any, message: str, folder: Path):
    rewrite(folder, lambda record: record.update({key: value}))
    assert load_error(folder) == f"manifest.json{message}"


def test_unknown_keys_of_a_manifest_are_left_out(folder: Path):
    rewrite(folder, lambda record: record.update(later={"a": 1}, data={"path": "p", "more": "<b>"}))
    _, record = checkpoint.check(folder)
    assert "later" not in record and record["data"] == {"path": "p"}


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", "no json"])
def test_a_manifest_of_something_else(text: str, folder: Path):
    (folder / manifest.NAME).write_text(text)
    with pytest.raises(InputError, match="is not a checkpoint folder"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width: 64", "width: 32", "model.safetensors is not of the network in config.yaml: its decoder.tokens.weight"),
        ("width: 64", "width: 63", "config.yaml: not a CheckpointConfig: model.width=63: must be a multiple of"),
        ("depth: 2", "depth: 3", "model.safetensors is not of the network in config.yaml: it has no decoder.blocks.2."),
        ("num_heads: 2", "num_heads: 0", "config.yaml: not a CheckpointConfig: model.num_heads=0: must be a whole"),
        ("width: 64", "new_option: 1", "config.yaml: not a CheckpointConfig: Key 'new_option' not in 'ModelConfig'"),
        ("method: iterative3", "method: magic", "config.yaml: not a CheckpointConfig: Invalid value 'magic'"),
    ],
)
def test_a_config_of_another_network(old: str, new: str, message: str, folder: Path):
    text = (folder / "config.yaml").read_text()
    assert text.count(old) == 1
    (folder / "config.yaml").write_text(text.replace(old, new))
    seal(folder)
    assert load_error(folder).startswith(message)


@pytest.mark.parametrize("content", [b"[1]", b"3", b"a: [", b"\xff\xfe\xfd"])
def test_a_file_that_is_not_a_config(content: bytes, folder: Path):
    (folder / "config.yaml").write_bytes(content)
    seal(folder)
    assert load_error(folder).startswith("config.yaml: ")


def test_a_model_that_is_not_safetensors(folder: Path):
    (folder / "model.safetensors").write_bytes(b"hello")
    seal(folder)
    assert load_error(folder).startswith("model.safetensors is not of the network in config.yaml: ")


def describe_tokenizer(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the description inside the tokenizer's file."""
    file = folder / "tokenizer.safetensors"
    with safe_open(file, framework="pt") as opened:
        described = json.loads(opened.metadata()["emage"])
    save_file(load_file(file), file, {"emage": json.dumps(change(described))})
    seal(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda it: {**it, "vqgan": {**it["vqgan"], "new": 1}}, "cannot build: not a VQGANConfig: Key 'new' not in"),
        (lambda it: {**it, "vqgan": {**it["vqgan"], "channels": "many"}}, "cannot build: not a VQGANConfig: Value"),
        (lambda it: {**it, "vqgan": [1]}, "cannot build: "),
        (lambda it: {**it, "vqgan": {**it["vqgan"], "channels": 10}}, "the weights do not fit vqgan-demo-f8-512: "),
        (lambda it: {**it, "vqgan": {**it["vqgan"], "num_groups": 0}}, "the weights do not fit vqgan-demo-f8-512: "),
        (lambda it: {"vqgan": it["vqgan"]}, "holds no tokenizer of an architecture of this version (vqgan, dvae)"),
        (lambda it: {"name": "a", "later": {}}, "holds no tokenizer of an architecture of this version (vqgan, dvae)"),
        (lambda it: 3, "holds no tokenizer of an architecture of this version (vqgan, dvae)"),
    ],
)
def test_a_tokenizer_of_a_later_version(change: Callable, message: str, folder: Path):
    describe_tokenizer(folder, change)
    assert message in load_error(folder)


# --- Saving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_rounded_weights_are_not_saved(dtype: str, folder: Path, tmp_path: Path):
    network, tokenizer, config, _ = checkpoint.load(folder)
    with pytest.raises(InputError) as error:
        checkpoint.save(tmp_path / "new", network.to(getattr(torch, dtype)), tokenizer, config, {"step": 0})
    assert str(error.value) == f"the model was loaded as {dtype}: load it with dtype=float32 to save it"
    assert not (tmp_path / "new").exists()


def test_one_rounded_tensor_is_enough(folder: Path, tmp_path: Path):
    network, tokenizer, config, _ = checkpoint.load(folder)
    network.decoder.head.to(torch.bfloat16)
    with pytest.raises(InputError, match="loaded as bfloat16"):
        checkpoint.save(tmp_path / "new", network, tokenizer, config, {"step": 0})


# --- Fine-tuning ------------------------------------------------------------------------------------------------------

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


def test_a_checkpoint_on_the_hub(folder: Path, made_by: TokenizerInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    network = checkpoint.build(settings())
    with local_hub.serving() as hub:
        address = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        hub.commit("someone/model", "main", {file.name: file.read_bytes() for file in folder.iterdir()})
        finetune.start_from(network, "someone/model", settings(), made_by)
        with pytest.raises(InputError) as error:
            finetune.starting_point("someone/model", settings(width=32), made_by)
    assert torch.equal(logits(network), logits(checkpoint.load(folder)[0]))
    assert str(error.value).startswith("init=someone/model: model.width=64 in the checkpoint and 32 here")


def test_a_folder_without_a_tokenizer_uses_the_shipped_one_of_the_same_weights(folder: Path):
    (folder / "tokenizer.safetensors").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.safetensors is missing"):  # the manifest lists it
        checkpoint.check(folder)
    rewrite(folder, lambda record: record["files"].pop("tokenizer.safetensors"))
    assert checkpoint.load(folder)[1].sha256 == tokenizers.load(tokenizers.DEMO).sha256
    rewrite(folder, lambda record: record["tokenizer"].update(sha256="0" * 64))
    assert "its tokenizer is vqgan-demo-f8-512" in load_error(folder)
    rewrite(folder, lambda record: record["tokenizer"].update(name="dvae"))
    assert load_error(folder) == "manifest.json does not list tokenizer.safetensors under files"
