"""Cells: what is finished is not made again, other settings make it anew, and two processes share the work."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from emage.reproduce import experiments
from emage.reproduce.experiments import WORK, Cell


@dataclass(frozen=True)
class Sum:
    """A program: adds up its numbers, and notes in its output that it did."""

    numbers: tuple[int, ...]
    output: str
    num_workers: int = 1


class Worker:
    """Runs sums and counts them."""

    def __init__(self):
        self.done: list[tuple[int, ...]] = []

    def __call__(self, config: Sum) -> dict[str, Any]:
        Path(config.output, "note").write_text("added")
        self.done.append(config.numbers)
        return {"sum": sum(config.numbers)}


def a_sum(output: Path, name: str, *numbers: int, needs: tuple[Cell, ...] = (), num_workers: int = 1) -> Cell:
    return Cell(f"sums/{name}", Sum(numbers, str(output / "sums" / name / "work"), num_workers), needs)


def test_what_is_finished_is_not_made_again(tmp_path: Path):
    first = a_sum(tmp_path, "first", 1, 2)
    second = a_sum(tmp_path, "second", 5, needs=(first,))
    order = experiments.in_order([second, first])
    assert order == [first, second]
    work = Worker()
    experiments.work_through(order, tmp_path, work)
    assert work.done == [(1, 2), (5,)] and experiments.result(first, tmp_path)["figures"] == {"sum": 3}
    experiments.work_through(order, tmp_path, work)
    assert len(work.done) == 2 and experiments.waiting(order, tmp_path) == []
    record = json.loads((tmp_path / "sums/first/result.json").read_text())
    assert record["seconds"] >= 0 and record["made_by"]["commit"]


def test_workers_and_places_do_not_count(tmp_path: Path):
    here, there = tmp_path / "a", tmp_path / "b"
    same = [a_sum(here, "one", 1), a_sum(here, "one", 1, num_workers=8)]
    assert experiments.fingerprint(same[0], here) == experiments.fingerprint(same[1], here)
    assert experiments.fingerprint(a_sum(there, "one", 1), there) == experiments.fingerprint(same[0], here)
    assert experiments.fingerprint(a_sum(here, "one", 2), here) != experiments.fingerprint(same[0], here)


def test_paths_below_the_output_are_told_from_there(tmp_path: Path):
    @dataclass(frozen=True)
    class Reader:
        source: str

    def made(output: Path, source: Path) -> str:
        return experiments.fingerprint(Cell("reader", Reader(str(source))), output)

    here, there = tmp_path / "a", tmp_path / "b"
    assert made(here, here / "x") == made(there, there / "x")
    assert made(here, here / "x") != made(here, there / "x")


def test_other_settings_make_it_and_what_needs_it_anew_and_keep_the_old(tmp_path: Path):
    def order(number: int) -> list[Cell]:
        first = a_sum(tmp_path, "first", number)
        return [first, a_sum(tmp_path, "second", 5, needs=(first,))]

    work = Worker()
    experiments.work_through(order(1), tmp_path, work)
    assert len(experiments.waiting(order(2), tmp_path)) == 2
    experiments.work_through(order(2), tmp_path, work)
    assert work.done == [(1,), (5,), (2,), (5,)]
    assert (tmp_path / "sums/first.1" / WORK / "note").exists() and (tmp_path / "sums/first" / WORK / "note").exists()


def test_what_was_begun_is_gone_on_with(tmp_path: Path):
    cell = a_sum(tmp_path, "one", 1)

    def broken(config: Sum) -> dict[str, Any]:
        Path(config.output, "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiments.work_through([cell], tmp_path, broken)
    assert experiments.result(cell, tmp_path) is None
    experiments.work_through([cell], tmp_path, Worker())
    assert (tmp_path / "sums/one" / WORK / "half").exists()
    record = experiments.result(cell, tmp_path)
    assert record["figures"] == {"sum": 1} and record["seconds"] is None
    other = a_sum(tmp_path, "one", 2)  # of other settings, it would have been another's half
    experiments.work_through([other], tmp_path, Worker())
    assert not (tmp_path / "sums/one" / WORK / "half").exists()


def test_forgotten_cells_are_made_again(tmp_path: Path):
    one, two = a_sum(tmp_path, "one", 1), a_sum(tmp_path, "two", 2)
    work = Worker()
    experiments.work_through([one, two], tmp_path, work)
    experiments.forget([two], tmp_path)
    experiments.work_through([one, two], tmp_path, work)
    assert work.done == [(1,), (2,), (2,)] and (tmp_path / "sums/two.1").is_dir()


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_experiments import a_sum
from emage.reproduce import experiments as cells
output = Path({output!r})
def work(config):
    print("working", flush=True)
    time.sleep(600)
cells.work_through([a_sum(output, "one", 1)], output, work)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that works on the cell "one" until it is killed."""
    program = HOLDER.format(tests=str(Path(__file__).parent), output=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "working\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_cell_of_another_process_is_skipped_and_come_back_to(holder, tmp_path: Path, monkeypatch):
    experiments.forget([a_sum(tmp_path, "one", 1)], tmp_path)
    assert (tmp_path / "sums/one/work").is_dir()  # nor is it moved away under its hands
    work = Worker()

    def wait(seconds: float) -> None:
        assert work.done == [(2,)]  # the other's was skipped
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()

    monkeypatch.setattr(experiments.time, "sleep", wait)
    experiments.work_through([a_sum(tmp_path, "one", 1), a_sum(tmp_path, "two", 2)], tmp_path, work)
    assert work.done == [(2,), (1,)]


def test_cells_of_one_lock_wait_for_each_other(tmp_path: Path):
    one, two = (Cell(name, Sum((1,), str(tmp_path / name / "work")), lock="device") for name in ("one", "two"))
    inside: list[bool] = []

    def look(config: Sum) -> dict[str, Any]:
        with experiments._mine(two, tmp_path) as mine:
            inside.append(mine)
        return {}

    experiments.work_through([one], tmp_path, look)
    assert inside == [False]
