"""Checkpoint folders whose parts fit their sha256 and yet contradict each other: one line each, and no traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from emage import checkpoint, manifest
from emage.errors import InputError

NAMES = ["config.yaml", "model.safetensors", "tokenizer.safetensors"]


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_model, tmp_path / "model")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((folder / manifest.NAME).read_text())
    change(record)
    (folder / manifest.NAME).write_text(json.dumps(record))


def seal(folder: Path) -> None:
    """Makes the manifest's sha256 fit whatever lies there."""
    rewrite(folder, lambda record: record.update(files={name: manifest.sha256(folder / name) for name in NAMES}))


def refused(folder: Path) -> str:
    """What `load` says, which must be one line that begins with the folder and says what to do."""
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
    assert refused(folder) == f"manifest.json does not list {name} under files"
    with pytest.raises(InputError, match=f"does not list {name}"):
        checkpoint.check(folder)


@pytest.mark.parametrize("files", [{}, [], None, "model.safetensors"])
def test_a_manifest_that_lists_nothing(files, folder: Path):
    rewrite(folder, lambda record: record.update(files=files))
    assert refused(folder) == "manifest.json does not list config.yaml under files"


@pytest.mark.parametrize("tokenizer", [None, {}, "demo", {"name": "demo"}, {"name": "demo", "sha256": 3}])
def test_a_manifest_without_a_tokenizer(tokenizer, folder: Path):
    rewrite(folder, lambda record: record.update(tokenizer=tokenizer))
    assert refused(folder) == "manifest.json does not say which tokenizer it was trained with"


@pytest.mark.parametrize("text", ["[]", "3", "null", "{}", "no json"])
def test_a_manifest_of_something_else(text: str, folder: Path):
    (folder / manifest.NAME).write_text(text)
    with pytest.raises(InputError, match="is no checkpoint folder"):
        checkpoint.load(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("width: 64", "width: 32", "model.safetensors is not of the network in config.yaml: Error(s) in loading"),
        ("width: 64", "width: 63", "model.safetensors is not of the network in config.yaml: model.width 63 is not"),
        ("depth: 2", "depth: 3", "model.safetensors is not of the network in config.yaml: Error(s) in loading"),
        ("num_heads: 2", "num_heads: 0", "model.safetensors is not of the network in config.yaml: "),
        ("width: 64", "new_option: 1", "config.yaml is not a CheckpointConfig: Key 'new_option' not in 'ModelConfig'"),
        ("method: iterative3", "method: magic", "config.yaml is not a CheckpointConfig: Invalid value 'magic'"),
    ],
)
def test_a_config_of_another_network(old: str, new: str, message: str, folder: Path):
    text = (folder / "config.yaml").read_text()
    assert text.count(old) == 1
    (folder / "config.yaml").write_text(text.replace(old, new))
    seal(folder)
    assert refused(folder).startswith(message)


@pytest.mark.parametrize("content", [b"[1]", b"3", b"a: [", b"\xff\xfe\xfd"])
def test_a_config_that_is_none(content: bytes, folder: Path):
    (folder / "config.yaml").write_bytes(content)
    seal(folder)
    assert refused(folder).startswith("config.yaml is ")


def test_a_model_that_is_no_safetensors(folder: Path):
    (folder / "model.safetensors").write_bytes(b"hello")
    seal(folder)
    assert refused(folder).startswith("model.safetensors is not of the network in config.yaml: ")


def describe_tokenizer(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes what the tokenizer's file says of itself."""
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
        (lambda it: {"vqgan": it["vqgan"]}, "holds no tokenizer of a kind that this version knows (vqgan, dvae)"),
        (lambda it: {"name": "a", "later": {}}, "holds no tokenizer of a kind that this version knows (vqgan, dvae)"),
        (lambda it: 3, "holds no tokenizer of a kind that this version knows (vqgan, dvae)"),
    ],
)
def test_a_tokenizer_of_a_later_version(change: Callable, message: str, folder: Path):
    describe_tokenizer(folder, change)
    assert message in refused(folder)


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
