"""Checkpoints for resuming: they are read back as saved, damaged ones are skipped, old ones deleted."""

import errno
import os
from pathlib import Path

import pytest
import torch

from emage.training import resume_state
from emage.training.resume_state import ResumeState
from emage.utils import manifest
from emage.utils.errors import InputError

NAME = manifest.NAME


def state(step: int) -> ResumeState:
    metadata = {
        "step": step,
        "updates": step - 1,
        "guard": {"mean": 0.1 + 0.2, "noted": 7, "skipped": 1},
        "world_size": 2,
    }
    weights = {"a": torch.full((3, 2), float(step)), "b": torch.tensor(7)}
    return ResumeState(metadata, weights, {"exp_avg.a": torch.rand(3, 2)}, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for step in (5, 10, 15):
        resume_state.save(tmp_path / "checkpoints", state(step))
    return tmp_path / "checkpoints"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_is_read_back_bit_by_bit(tmp_path: Path):
    saved = state(5)._replace(ema={"n": torch.tensor(3)})
    path = resume_state.save(tmp_path, saved)
    assert path.name == "step_00000005"
    assert names(path) == ["average.safetensors", NAME, "moments.safetensors", "weights.safetensors"]
    found = resume_state.load(path)
    for before, after in (
        (saved.weights, found.weights),
        (saved.moments, found.moments),
        (saved.ema, found.ema),
    ):
        assert before and after and before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
    assert {key: found.metadata[key] for key in saved.metadata} == saved.metadata
    assert found.metadata["files"]["weights.safetensors"]["bytes"] == (path / "weights.safetensors").stat().st_size


def test_without_checkpoints_there_is_no_newest(tmp_path: Path):
    assert resume_state.newest(tmp_path / "checkpoints") is None


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: flip(path / "moments.safetensors"), "the bytes of moments.safetensors have changed"),
        (lambda path: os.truncate(path / "weights.safetensors", 20), "weights.safetensors has 20 bytes, not"),
        (lambda path: (path / "weights.safetensors").unlink(), "weights.safetensors is missing"),
        (lambda path: (path / NAME).unlink(), f"{NAME} is missing or unreadable"),
        (lambda path: (path / NAME).write_text("{half"), f"{NAME} is missing or unreadable"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_for_the_one_before(folder: Path, damage, message: str, caplog):
    assert resume_state.newest(folder) == folder / "step_00000015"
    damage(folder / "step_00000015")
    assert resume_state.newest(folder) == folder / "step_00000010"
    (record,) = caplog.records
    assert message in record.getMessage() and "step_00000015" in record.getMessage()
    assert names(folder) == ["step_00000005", "step_00000010"], "prune would count it among the newest"
    flip(folder / "step_00000010" / "weights.safetensors")
    assert resume_state.newest(folder) == folder / "step_00000005"
    flip(folder / "step_00000005" / "weights.safetensors")
    with pytest.raises(InputError, match="every checkpoint is damaged"):
        resume_state.newest(folder)


def test_a_full_disk_leaves_earlier_checkpoints_as_they_are(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def full(tensors: dict, path: Path) -> None:
        path.write_bytes(b"as much as there was room for")
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(resume_state.weight_files, "write", full)
    with pytest.raises(OSError):
        resume_state.save(folder, state(20))
    assert names(folder) == ["step_00000005", "step_00000010", "step_00000015"]
    assert resume_state.newest(folder) == folder / "step_00000015"


@pytest.mark.parametrize(
    ("keep", "keep_every", "left"),
    [(1, 0, [15]), (2, 0, [10, 15]), (5, 0, [5, 10, 15]), (1, 10, [10, 15]), (1, 5, [5, 10, 15])],
)
def test_prune_keeps_the_newest_and_multiples_of_keep_every(folder: Path, keep: int, keep_every: int, left: list[int]):
    resume_state.prune(folder, keep, keep_every)
    assert names(folder) == [f"step_{step:08d}" for step in left]
