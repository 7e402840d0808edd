"""Folders that get their name when they are complete, and outputs that belong to one run."""

import os
from pathlib import Path

import pytest

from emage.utils import manifest
from emage.utils.errors import InputError


def test_a_new_folder_replaces_the_old_one_completely(tmp_path: Path):
    for text in ("old", "new"):
        with manifest.new_folder(tmp_path / "out") as folder:
            (folder / text).write_text(text)
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "new"]


def test_a_finished_folder_is_kept_without_replace(tmp_path: Path):
    for text in ("first", "second"):
        with manifest.new_folder(tmp_path / "out", replace=False) as folder:
            manifest.write_json(folder / manifest.NAME, text)
    assert manifest.read_json(tmp_path / "out" / manifest.NAME) == "first"


def test_a_folder_that_lost_its_manifest_is_made_again(tmp_path: Path):
    for text in ("first", "second"):
        with manifest.new_folder(tmp_path / "out", replace=False) as folder:
            (folder / text).touch()
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "second"]


def test_content_is_on_the_disk_before_a_file_or_folder_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    events: list[str] = []
    fsync, rename = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        events.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name.split('.')[1]}")
        fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        events.append(f"name {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    parent = tmp_path / ".parent"
    parent.mkdir()
    with manifest.new_file(parent / "data") as file:
        file.write_text("content")
    assert events == ["sync data", "name data", "sync parent"]
    events.clear()
    with manifest.new_folder(parent / "shard") as folder:
        (folder / ".data").touch()
        (folder / ".more").mkdir()
        (folder / ".more" / ".deep").touch()
    assert events[-2:] == ["name shard", "sync parent"] and events[-3] == "sync shard"
    assert set(events[:-3]) == {"sync data", "sync more", "sync deep"}


@pytest.mark.parametrize("content", [b"", b"{", b'{"rows": 1', b"\0\0\0\0", b"\xff\xfe{}", b"[" * 100_000])
def test_a_damaged_manifest_is_one_line_that_says_what_to_do(tmp_path: Path, content: bytes):
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"manifest\.json is damaged .*; delete this file and run the same"):
        manifest.read_json(tmp_path / "manifest.json")
    (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(InputError, match=r"run\.json is damaged; choose another output= or delete the folder"):
        manifest.claim_output(tmp_path, "train", {})


def test_outputs_are_compared_with_the_manifest(tmp_path: Path):
    shard = tmp_path / "00001"
    with manifest.new_folder(shard) as folder:
        (folder / "a").write_bytes(b"content")
        manifest.write_json(folder / manifest.NAME, {"outputs": {"a": manifest.sha256(folder / "a")}})
    assert manifest.check_outputs(shard, ["a"]) == [shard / "a"]
    for damage in (b"contenT", b"conten", b""):
        (shard / "a").write_bytes(damage)
        with pytest.raises(InputError, match=rf"{shard}/a is damaged: .*; delete the folder {shard} and run the same"):
            manifest.check_outputs(shard, ["a"])
    (shard / "a").unlink()
    with pytest.raises(InputError, match="a is damaged"):
        manifest.check_outputs(shard, ["a"])


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
