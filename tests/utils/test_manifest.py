"""Folders that get their name when they are complete, and outputs that belong to one run."""

from pathlib import Path

import pytest

from emage.utils import manifest
from emage.utils.errors import InputError


def test_a_new_folder_replaces_the_old_one_completely(tmp_path: Path):
    for text in ("old", "new"):
        with manifest.new_folder(tmp_path / "out") as folder:
            (folder / text).write_text(text)
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "new"]


def test_an_existing_folder_is_kept_without_replace(tmp_path: Path):
    for text in ("first", "second"):
        with manifest.new_folder(tmp_path / "out", replace=False) as folder:
            (folder / text).write_text(text)
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "first"]


def test_a_failed_block_leaves_no_files(tmp_path: Path):
    with pytest.raises(OSError, match="full"), manifest.new_folder(tmp_path / "out") as folder:
        (folder / "half").touch()
        raise OSError("full")
    assert not list(tmp_path.iterdir())


def test_temporary_files_of_killed_runs_are_removed(tmp_path: Path):
    (tmp_path / ".00001.1a2b3c4d").mkdir()
    (tmp_path / ".manifest.json.1a2b3c4d").touch()
    (tmp_path / "00000").mkdir()
    manifest.remove_leftovers(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["00000"]


def test_an_output_belongs_to_one_run(tmp_path: Path):
    output = tmp_path / "out"
    manifest.claim_output(output, "train", {"optim": {"lr": 1e-3}})
    manifest.claim_output(output, "train", {"optim": {"lr": 1e-3}})
    with pytest.raises(InputError, match=r"already holds a run with optim\.lr=0\.001 \(now 0\.1\)"):
        manifest.claim_output(output, "train", {"optim": {"lr": 0.1}})
    with pytest.raises(InputError, match="holds the output of train, not of ingest"):
        manifest.claim_output(output, "ingest", {})
    with pytest.raises(InputError, match="not a URL"):
        manifest.claim_output("s3://bucket/out", "train", {})
