"""Finished work: a folder takes its name when it is whole, and belongs to one run."""

from pathlib import Path

import pytest

from emage.utils import manifest
from emage.utils.errors import InputError


def test_a_new_folder_takes_the_place_of_the_old_one_whole(tmp_path: Path):
    for text in ("old", "new"):
        with manifest.new_folder(tmp_path / "out") as folder:
            (folder / text).write_text(text)
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "new"]


def test_a_folder_that_is_there_stays_where_it_is_not_to_be_replaced(tmp_path: Path):
    for text in ("first", "second"):
        with manifest.new_folder(tmp_path / "out", replace=False) as folder:
            (folder / text).write_text(text)
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "first"]


def test_a_block_that_fails_leaves_nothing(tmp_path: Path):
    with pytest.raises(OSError, match="full"), manifest.new_folder(tmp_path / "out") as folder:
        (folder / "half").touch()
        raise OSError("full")
    assert not list(tmp_path.iterdir())


def test_what_killed_runs_left_is_removed(tmp_path: Path):
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
