"""Changes to a checkpoint folder, as damage, another version or a stranger makes them, and what loading it says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from emage.model import checkpoint
from emage.utils import manifest
from emage.utils.errors import InputError

NAMES = ("config.yaml", "model.safetensors", "tokenizer.safetensors")


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the manifest in place, whatever the files are."""
    record = json.loads((folder / manifest.NAME).read_text())
    edit(record)
    (folder / manifest.NAME).write_text(json.dumps(record))


def seal(folder: Path) -> None:
    """Update the sha256 sums in the manifest to the present files."""
    edit_manifest(folder, lambda record: record.update(files={name: manifest.sha256(folder / name) for name in NAMES}))


def change_config(folder: Path, old: str, new: str) -> None:
    """Replace a text that is there once in the config."""
    text = (folder / "config.yaml").read_text()
    assert text.count(old) == 1
    (folder / "config.yaml").write_text(text.replace(old, new))
    seal(folder)


def change_tokenizer(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Replace the description inside the tokenizer's file by what `change` returns for it."""
    file = folder / "tokenizer.safetensors"
    with safe_open(file, framework="pt") as opened:
        described = json.loads(opened.metadata()["emage"])
    save_file(load_file(file), file, {"emage": json.dumps(change(described))})
    seal(folder)


def load_error(folder: Path) -> str:
    """Return the error of `load`, which is one line."""
    with pytest.raises(InputError) as caught:
        checkpoint.load(folder)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1_000
    return str(caught.value)
