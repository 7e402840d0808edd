"""Checkpoint folders: damaged ones give an error of one line, the others are loaded; rounded weights are not saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from changed_checkpoints import NAMES, change_config, change_tokenizer, edit_manifest, load_error, seal

from emage import tokenizers
from emage.model import checkpoint
from emage.utils import manifest
from emage.utils.errors import InputError


def damage(folder: Path) -> str:
    """Return what `load` says is damaged: its line begins with the folder and ends with what to do."""
    start, line, end = f"{folder} is a damaged checkpoint: ", load_error(folder), ": copy the whole folder again"
    assert line.startswith(start) and line.endswith(end)
    return line.removeprefix(start).removesuffix(end)


def test_a_whole_folder_loads(folder: Path):
    seal(folder)
    network, tokenizer, config, record = checkpoint.load(folder)
    assert config.vocab_size == tokenizer.vocab_size == 512 and record["step"] == 0 and not network.training


@pytest.mark.parametrize("name", NAMES)
def test_the_manifest_must_list_every_file(name: str, folder: Path):
    edit_manifest(folder, lambda record: record["files"].pop(name))
    assert damage(folder) == f"manifest.json does not list {name} under files"
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
    edit_manifest(folder, lambda record: record.update({key: value}))
    assert damage(folder) == f"manifest.json{message}"


def test_unknown_keys_of_a_manifest_are_left_out(folder: Path):
    edit_manifest(folder, lambda record: record.update(later={"a": 1}, data={"path": "p", "more": "<b>"}))
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
    change_config(folder, old, new)
    assert damage(folder).startswith(message)


@pytest.mark.parametrize("content", [b"[1]", b"3", b"a: [", b"\xff\xfe\xfd"])
def test_a_file_that_is_not_a_config(content: bytes, folder: Path):
    (folder / "config.yaml").write_bytes(content)
    seal(folder)
    assert damage(folder).startswith("config.yaml: ")


def test_a_model_that_is_not_safetensors(folder: Path):
    (folder / "model.safetensors").write_bytes(b"hello")
    seal(folder)
    assert damage(folder).startswith("model.safetensors is not of the network in config.yaml: ")


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
    change_tokenizer(folder, change)
    assert message in damage(folder)


def test_a_folder_without_a_tokenizer_uses_the_shipped_one_of_the_same_weights(folder: Path):
    (folder / "tokenizer.safetensors").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.safetensors is missing"):  # the manifest lists it
        checkpoint.check(folder)
    edit_manifest(folder, lambda record: record["files"].pop("tokenizer.safetensors"))
    assert checkpoint.load(folder)[1].sha256 == tokenizers.load(tokenizers.DEMO).sha256
    edit_manifest(folder, lambda record: record["tokenizer"].update(sha256="0" * 64))
    assert "its tokenizer is vqgan-demo-f8-512" in damage(folder)
    edit_manifest(folder, lambda record: record["tokenizer"].update(name="dvae"))
    assert damage(folder) == "manifest.json does not list tokenizer.safetensors under files"


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
