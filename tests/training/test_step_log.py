"""steps.jsonl is read back as written, after incomplete lines, resumed runs and full disks."""

import json
import logging
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from emage.training import step_log
from emage.training.step_log import StepLog


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "steps.jsonl"


def write(path: Path, numbers, start: int = 0) -> None:
    log = StepLog(path, start)
    for step in numbers:
        log.append(step, {"loss": step / 7})
    log.close()


def recorded(path: Path) -> list[int]:
    return [record["step"] for record in step_log.read(path)]


# --- Writing ---------------------------------------------------------------------------------------------------------


def test_numbers_come_back_with_the_same_bits(path: Path):
    values = {"loss": 0.1 + 0.2, "lr": 1e-323, "samples": 2**63 + 1, "grad_norm": -0.0, "note": "a\nb é", "none": None}
    StepLog(path, 0).append(1, values)
    (record,) = step_log.read(path)
    assert record == {"step": 1} | values
    assert math.copysign(1, record["grad_norm"]) == -1 and isinstance(record["samples"], int)


def test_numpy_numbers_are_written_as_numbers(path: Path):
    StepLog(path, 0).append(1, {"loss": np.float32(0.1), "samples": np.int64(3), "skipped": True})
    assert path.read_text() == '{"step": 1, "loss": 0.10000000149011612, "samples": 3, "skipped": true}\n'


def test_a_number_that_is_not_finite_is_null(path: Path):
    StepLog(path, 0).append(1, {"loss": math.nan, "grad_norm": math.inf, "lr": np.float32(-math.inf)})
    assert path.read_text() == '{"step": 1, "loss": null, "grad_norm": null, "lr": null}\n'


def test_a_line_can_be_read_at_once(path: Path):
    log = StepLog(path, 0)
    log.append(1, {"loss": 2.0})
    assert recorded(path) == [1]  # read while it is open
    log.sync()
    log.close()


def test_a_resumed_run_has_no_step_twice(path: Path):
    write(path, range(1, 8))
    write(path, [5, 6], start=4)
    assert recorded(path) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("half", ['{"step": 3, "lo', '{"step": 3, "loss": 1.0}', "\0" * 100_000])
def test_an_incomplete_line_is_removed(path: Path, half: str):
    write(path, [1, 2])
    with open(path, "a") as file:
        file.write(half)
    assert recorded(path) == [1, 2] and step_log.last_step(path) == 2
    write(path, [3], start=2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]


def test_a_worker_that_outlives_its_driver_writes_to_the_old_file(path: Path):
    """The run is resumed at step 2 while a worker of the killed one still trains."""
    orphan = step_log.StepLog(path, 0)
    orphan.append(1, {"loss": 1.0})
    orphan.append(2, {"loss": 1.0})
    log = step_log.StepLog(path, 2)
    orphan.append(3, {"loss": 1.0})
    log.append(3, {"loss": 2.0})
    orphan.append(4, {"loss": 1.0})
    log.append(4, {"loss": 2.0})
    assert [values["loss"] for values in step_log.read(path)] == [1.0, 1.0, 2.0, 2.0]
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_killed_while_writing(path: Path):
    code = "import sys; from emage.training.step_log import StepLog; log = StepLog(sys.argv[1], 0); i = 0\n"
    code += "while True: i += 1; log.append(i, {'loss': 1 / i, 'text': 'x' * 5000})"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    while not (path.exists() and path.stat().st_size > 1_000_000):
        assert process.poll() is None
    process.kill()
    process.wait()
    last = step_log.last_step(path)
    assert last > 100 and recorded(path) == list(range(1, last + 1))
    write(path, [51], start=50)
    assert recorded(path) == list(range(1, 52))


@pytest.fixture
def no_room_beyond():
    """Limit the size of files, as on a full disk: a write stops half-way, the next one fails."""
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (old[0] if size is None else size, old[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_does_not_stop_training(path: Path, no_room_beyond, caplog):
    log = StepLog(path, 0)
    log.append(1, {"loss": 1.0})
    no_room_beyond(path.stat().st_size + 10)
    for step in (2, 3, 4):
        log.append(step, {"loss": 1.0})
        log.sync()  # works, and must not hide the incomplete line
    no_room_beyond(None)
    assert recorded(path) == [1]
    log.append(5, {"loss": 1.0})
    log.append(6, {"loss": 1.0})
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 5, 6]
    assert all("training continues" in record.getMessage() for record in caplog.records) and caplog.records


def test_one_warning_while_the_disk_is_full(path: Path, no_room_beyond, caplog):
    log = StepLog(path, 0)
    no_room_beyond(0)
    for step in range(1, 20):
        log.append(step, {"loss": 1.0})
    no_room_beyond(None)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and str(path) in record.getMessage() and "\n" not in record.getMessage()


def test_a_disk_that_is_full_when_a_run_is_resumed(path: Path, no_room_beyond, caplog):
    write(path, range(1, 8))
    no_room_beyond(20)
    log = StepLog(path, 4)
    log.append(5, {"loss": 1.0})
    no_room_beyond(None)
    assert recorded(path) == list(range(1, 8))  # the old log, complete
    log.append(6, {"loss": 1.0})
    assert recorded(path) == [1, 2, 3, 4, 6]
    assert len(caplog.records) == 1


def test_a_folder_that_does_not_exist_yet(tmp_path: Path, caplog):
    log = StepLog(tmp_path / "later" / "steps.jsonl", 0)
    log.append(1, {"loss": 1.0})
    (tmp_path / "later").mkdir()
    log.append(2, {"loss": 1.0})
    assert recorded(tmp_path / "later" / "steps.jsonl") == [2] and len(caplog.records) == 1


# --- Reading ---------------------------------------------------------------------------------------------------------


def test_a_run_that_has_not_started(path: Path):
    assert recorded(path) == [] and step_log.last_step(path) == 0
    assert {name: len(column) for name, column in step_log.columns(path, ["loss"]).items()} == {"step": 0, "loss": 0}
    path.touch()
    assert recorded(path) == [] and step_log.last_step(path) == 0


def test_columns_are_nan_where_a_line_lacks_the_key(path: Path):
    log = StepLog(path, 0)
    log.append(1, {"loss": 4.0, "context_gain": 0.5})
    log.append(2, {"loss": math.nan})
    log.append(3, {"loss": 2.0})
    found = step_log.columns(path, ["loss", "context_gain", "nothing"])
    np.testing.assert_array_equal(found["step"], [1, 2, 3])
    np.testing.assert_array_equal(found["loss"], [4, np.nan, 2])
    np.testing.assert_array_equal(found["context_gain"], [0.5, np.nan, np.nan])
    np.testing.assert_array_equal(found["nothing"], [np.nan] * 3)


@pytest.mark.parametrize("length", [10, 65_000, 65_536, 70_000, 300_000])
def test_the_last_step_whatever_the_length_of_lines(path: Path, length: int):
    log = StepLog(path, 0)
    for step in (1, 2, 3):
        log.append(step, {"text": "x" * length})
    assert step_log.last_step(path) == 3
    with open(path, "a") as file:
        file.write('{"step": 4, "text": "' + "y" * length)
    assert step_log.last_step(path) == 3


def test_the_last_step_is_read_from_the_end(path: Path):
    with open(path, "wb") as file:
        file.truncate(1 << 33)  # 8 GiB of nothing, a sparse file
        file.seek(0, os.SEEK_END)
        file.write(b'\n{"step": 7}\n')
    assert step_log.last_step(path) == 7


class Follower:
    """`follow` in a thread, as the progress bar uses it."""

    def __init__(self, path: Path):
        self.seen: list[int] = []
        self.stop, self._news = threading.Event(), threading.Condition()
        lines = step_log.follow(path, self.stop, every_s=0.01)
        self._thread = threading.Thread(target=self._run, args=(lines,), daemon=True)
        self._thread.start()

    def _run(self, lines: Iterator[dict]) -> None:
        for record in lines:
            with self._news:
                self.seen.append(record["step"])
                self._news.notify_all()

    def wait_for(self, step: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self.seen[-1:] == [step], timeout=60), self.seen

    def end(self) -> list[int]:
        self.stop.set()
        self._thread.join()
        return self.seen


def test_following_a_run_from_its_first_step(path: Path):
    follower = Follower(path)  # the file does not exist yet
    log = StepLog(path, 0)
    for step in range(1, 50):
        log.append(step, {"loss": 1.0})
        if step % 10 == 0:
            follower.wait_for(step)
    assert follower.end() == list(range(1, 50))  # also those written just before `stop` was set


def test_following_waits_for_the_end_of_a_line(path: Path):
    follower = Follower(path)
    with open(path, "wb", buffering=0) as file:
        file.write(b'{"step": 1}\n{"step"')
        follower.wait_for(1)
        file.write(b": 2}\n")
        follower.wait_for(2)
    assert follower.end() == [1, 2]


def test_following_goes_back_with_a_resumed_run(path: Path):
    write(path, range(1, 101))
    follower = Follower(path)
    follower.wait_for(100)  # the last line
    log = step_log.StepLog(path, 40)
    follower.wait_for(40)
    log.append(41, {"loss": 1.0})
    log.append(42, {"loss": 1.0})
    follower.wait_for(42)
    assert follower.end() == [100, 40, 41, 42]


def test_following_notices_a_log_that_was_replaced_and_grew(path: Path):
    write(path, [1, 2, 3])
    lines = step_log.follow(path, threading.Event(), every_s=0)
    assert next(lines)["step"] == 3
    write(path, [2, 3, 4, 5], start=1)  # longer than the old one before it is looked at
    assert next(lines)["step"] == 5


def test_following_a_file_that_is_deleted_and_written_again(path: Path):
    write(path, [1, 2, 3])
    follower = Follower(path)
    follower.wait_for(3)
    path.unlink()
    write(path, [1])
    follower.wait_for(1)
    assert follower.end() == [3, 1]
