"""Experiments run once, run again with other settings, and are shared by several processes."""

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
from emage.reproduce.experiments import WORK, Experiment


@dataclass(frozen=True)
class Sum:
    """Settings of a program that adds numbers and writes a file into its output."""

    numbers: tuple[int, ...]
    output: str
    num_workers: int = 1


class Worker:
    """Run sums and remember which."""

    def __init__(self):
        self.done: list[tuple[int, ...]] = []

    def __call__(self, config: Sum) -> dict[str, Any]:
        Path(config.output, "note").write_text("added")
        self.done.append(config.numbers)
        return {"sum": sum(config.numbers)}


def a_sum(
    output: Path, name: str, *numbers: int, needs: tuple[Experiment, ...] = (), num_workers: int = 1
) -> Experiment:
    return Experiment(f"sums/{name}", Sum(numbers, str(output / "sums" / name / "work"), num_workers), "Sum", needs)


def test_finished_experiments_do_not_run_again(tmp_path: Path):
    first = a_sum(tmp_path, "first", 1, 2)
    second = a_sum(tmp_path, "second", 5, needs=(first,))
    order = experiments.in_dependency_order([second, first])
    assert order == [first, second]
    work = Worker()
    experiments.run_all(order, tmp_path, work)
    assert work.done == [(1, 2), (5,)] and experiments.read_result(first, tmp_path)["figures"] == {"sum": 3}
    experiments.run_all(order, tmp_path, work)
    assert len(work.done) == 2 and experiments.unfinished(order, tmp_path) == []
    record = json.loads((tmp_path / "sums/first/result.json").read_text())
    assert record["seconds"] >= 0 and record["made_by"]["commit"]


def test_the_fingerprint_does_not_depend_on_workers_and_outputs(tmp_path: Path):
    here, there = tmp_path / "a", tmp_path / "b"
    same = [a_sum(here, "one", 1), a_sum(here, "one", 1, num_workers=8)]
    assert experiments.fingerprint(same[0], here) == experiments.fingerprint(same[1], here)
    assert experiments.fingerprint(a_sum(there, "one", 1), there) == experiments.fingerprint(same[0], here)
    assert experiments.fingerprint(a_sum(here, "one", 2), here) != experiments.fingerprint(same[0], here)


def test_paths_below_the_output_are_relative_in_the_fingerprint(tmp_path: Path):
    @dataclass(frozen=True)
    class Reader:
        source: str

    def made(output: Path, source: Path) -> str:
        return experiments.fingerprint(Experiment("reader", Reader(str(source)), "Reader"), output)

    here, there = tmp_path / "a", tmp_path / "b"
    assert made(here, here / "x") == made(there, there / "x")
    assert made(here, here / "x") != made(here, there / "x")


def test_other_settings_run_it_and_its_dependants_again_and_keep_the_old_results(tmp_path: Path):
    def order(number: int) -> list[Experiment]:
        first = a_sum(tmp_path, "first", number)
        return [first, a_sum(tmp_path, "second", 5, needs=(first,))]

    work = Worker()
    experiments.run_all(order(1), tmp_path, work)
    assert len(experiments.unfinished(order(2), tmp_path)) == 2
    experiments.run_all(order(2), tmp_path, work)
    assert work.done == [(1,), (5,), (2,), (5,)]
    assert (tmp_path / "sums/first.1" / WORK / "note").exists() and (tmp_path / "sums/first" / WORK / "note").exists()


def test_a_killed_experiment_is_resumed(tmp_path: Path):
    experiment = a_sum(tmp_path, "one", 1)

    def broken(config: Sum) -> dict[str, Any]:
        Path(config.output, "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiments.run_all([experiment], tmp_path, broken)
    assert experiments.read_result(experiment, tmp_path) is None
    experiments.run_all([experiment], tmp_path, Worker())
    assert (tmp_path / "sums/one" / WORK / "half").exists()
    record = experiments.read_result(experiment, tmp_path)
    assert record["figures"] == {"sum": 1} and record["seconds"] is None
    other = a_sum(tmp_path, "one", 2)  # with other settings it must not be resumed
    experiments.run_all([other], tmp_path, Worker())
    assert not (tmp_path / "sums/one" / WORK / "half").exists()


def test_experiments_set_aside_run_again(tmp_path: Path):
    one, two = a_sum(tmp_path, "one", 1), a_sum(tmp_path, "two", 2)
    work = Worker()
    experiments.run_all([one, two], tmp_path, work)
    experiments.set_aside([two], tmp_path)
    experiments.run_all([one, two], tmp_path, work)
    assert work.done == [(1,), (2,), (2,)] and (tmp_path / "sums/two.1").is_dir()


HOLDER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_experiments import a_sum
from emage.reproduce import experiments
output = Path({output!r})
def work(config):
    print("working", flush=True)
    time.sleep(600)
experiments.run_all([a_sum(output, "one", 1)], output, work)
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that runs the experiment "one" until it is killed."""
    program = HOLDER.format(tests=str(Path(__file__).parent), output=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "working\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def test_an_experiment_of_another_process_is_skipped_and_retried_later(holder, tmp_path: Path, monkeypatch):
    experiments.set_aside([a_sum(tmp_path, "one", 1)], tmp_path)
    assert (tmp_path / "sums/one/work").is_dir()  # a running experiment is not set aside
    work = Worker()

    def wait(seconds: float) -> None:
        assert work.done == [(2,)]  # the other process's was skipped
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()

    monkeypatch.setattr(experiments.time, "sleep", wait)
    experiments.run_all([a_sum(tmp_path, "one", 1), a_sum(tmp_path, "two", 2)], tmp_path, work)
    assert work.done == [(2,), (1,)]


def test_experiments_with_one_lock_do_not_run_together(tmp_path: Path):
    one, two = (
        Experiment(name, Sum((1,), str(tmp_path / name / "work")), "Sum", lock="device") for name in ("one", "two")
    )
    inside: list[bool] = []

    def look(config: Sum) -> dict[str, Any]:
        with experiments._try_lock(two, tmp_path) as is_ours:
            inside.append(is_ours)
        return {}

    experiments.run_all([one], tmp_path, look)
    assert inside == [False]
