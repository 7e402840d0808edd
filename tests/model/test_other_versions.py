"""Checkpoints and token tables of another version: one line that names both versions, not "damaged"."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from changed_checkpoints import edit_manifest, load_error

from emage.data import schema
from emage.model import checkpoint
from emage.utils import manifest
from emage.utils.errors import InputError
from emage.version import __version__


def rewritten(model: Path, folder: Path, version: str, change: Callable[[Path, dict[str, Any]], object]) -> Path:
    """Copy a checkpoint, change it, and write its manifest with that version and the new sha256 sums."""
    shutil.copytree(model, folder)

    def edit(record: dict[str, Any]) -> None:
        change(folder, record)
        for name in record.get("files", {}):
            record["files"][name] = manifest.sha256(folder / name)
        record["emage"] = version

    edit_manifest(folder, edit)
    return folder


def add_setting(folder: Path, record: dict[str, Any]) -> None:
    (folder / "config.yaml").write_text((folder / "config.yaml").read_text() + "colour_space: lab\n")


def split_weights(folder: Path, record: dict[str, Any]) -> None:
    (folder / "model.safetensors").rename(folder / "model-1-of-2.safetensors")
    record["files"] = {"config.yaml": "", "tokenizer.safetensors": "", "model-1-of-2.safetensors": ""}


def other_layout(folder: Path, record: dict[str, Any]) -> None:
    (folder / "config.yaml").rename(folder / "config.json")
    record["files"] = {}


@pytest.mark.parametrize("change", [add_setting, split_weights, other_layout])
def test_a_checkpoint_of_another_version_is_not_called_damaged(tiny_model: Path, tmp_path: Path, change) -> None:
    newer = rewritten(tiny_model, tmp_path / "newer", "7.1.0", change)
    line = load_error(newer)
    assert line.startswith(f"{newer} was made by emage 7.1.0, this is emage {__version__}, which cannot read it (")
    assert line.endswith("): use emage 7.1.0") and "damaged" not in line


def test_a_checkpoint_of_another_version_that_can_be_read_is_used(tiny_model: Path, tmp_path: Path) -> None:
    same = rewritten(tiny_model, tmp_path / "same", "7.1.0", lambda folder, record: None)
    assert checkpoint.load(same)[3]["emage"] == "7.1.0"


def test_changed_bytes_are_damage_whatever_the_version(tiny_model: Path, tmp_path: Path) -> None:
    newer = rewritten(tiny_model, tmp_path / "newer", "7.1.0", lambda folder, record: None)
    add_setting(newer, {})
    with pytest.raises(InputError, match=r"is a damaged checkpoint: config\.yaml is not the one"):
        checkpoint.check(newer)
    own = rewritten(tiny_model, tmp_path / "own", __version__, add_setting)
    with pytest.raises(InputError, match=r"is a damaged checkpoint: config\.yaml: .*colour_space"):
        checkpoint.check(own)


def test_a_token_table_of_another_version_names_both(tmp_path: Path) -> None:
    info = {"name": "vqgan-x", "sha256": "0", "vocab_size": 8, "grid": "2 x 2"}
    metadata = {"emage.tokenizer": json.dumps(info), "emage.version": "7.1.0"}
    pq.write_table(pa.table({"uid": [1]}).replace_schema_metadata(metadata), tmp_path / "00000.parquet")
    with pytest.raises(InputError) as error:
        schema.open_token_table(str(tmp_path))
    assert f"made by emage 7.1.0, this is emage {__version__}" in str(error.value) and "\n" not in str(error.value)
