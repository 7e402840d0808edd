"""Work items of an evaluation on actors that die or never start."""

import os
import signal
import time
from pathlib import Path

import pytest

from emage.config import EvaluateConfig, preset
from emage.on_ray.evaluation import actor_pool
from emage.on_ray.evaluation.actor_pool import ActorPool, WorkItem
from emage.utils.errors import InputError

pytestmark = pytest.mark.ray


def worker() -> type:
    """Return a class in place of EvaluationActor. It is defined in a function so that Ray pickles it by value."""

    class Worker:
        def __init__(self, config: EvaluateConfig, expected: str):
            self.marks = Path(config.output)
            if expected == "sound once":
                (self.marks / str(os.getpid())).touch()
                (self.marks / "taken").mkdir()
            else:
                assert expected == "sound"

        def ping(self) -> None: ...

        def run(self, method: str, arguments: tuple[int, int]) -> int:
            """Leaves a mark each time that it starts a work item, and dies the first few times."""
            number, deaths = arguments
            begun = self.marks / str(number)
            with begun.open("a") as file:
                file.write("x")
            if begun.stat().st_size <= deaths:
                os._exit(1)
            time.sleep(1.5 if method == "slow" else 0.05)
            return os.getpid() if method == "who" else number

    return Worker


def work(output: Path, num_actors: int, monkeypatch: pytest.MonkeyPatch, expected: str = "sound") -> ActorPool:
    monkeypatch.setattr(actor_pool, "EvaluationActor", worker())
    settings = {"checkpoint": "demo", "captions": "none", "output": str(output), "num_actors": num_actors}
    return ActorPool(preset(EvaluateConfig, "tiny", **settings), expected)  # type: ignore[arg-type]


def begun(output: Path) -> list[int]:
    """Return how often each work item was started."""
    return [(output / str(number)).stat().st_size for number in range(len(list(output.iterdir())))]


def test_only_the_work_item_of_a_lost_actor_is_repeated(ray_cluster, tmp_path, monkeypatch):
    items = [WorkItem("number", (number, 2 if number == 3 else 0), 1) for number in range(8)]
    assert work(tmp_path, 2, monkeypatch).run("generate", items) == list(range(8))
    assert begun(tmp_path) == [1, 1, 1, 3, 1, 1, 1, 1]


@pytest.mark.faults
def test_a_work_item_that_kills_every_actor_ends_the_stage_with_one_line(ray_cluster, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="an actor failed 6 times in a row") as ended:
        work(tmp_path, 1, monkeypatch).run("generate", [WorkItem("number", (0, 100), 1)])
    assert "\n" not in str(ended.value) and begun(tmp_path) == [actor_pool.MAX_RETRIES + 1]


@pytest.mark.faults
def test_actors_lost_while_idle_do_not_count_as_failures(ray_cluster, tmp_path, monkeypatch):
    actors = work(tmp_path, 4, monkeypatch)
    before = actors.run("generate", [WorkItem("who", (number, 0), 1) for number in range(24)])
    for pid in set(before):
        os.kill(pid, signal.SIGKILL)
    monkeypatch.setattr(actor_pool, "MAX_RETRIES", 0)
    (after,) = actors.run("score", [WorkItem("who", (0, 0), 1)])
    assert after not in before


@pytest.mark.faults
def test_an_actor_that_never_starts_ends_the_stage(ray_cluster, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no actor could start .*AssertionError"):
        work(tmp_path, 1, monkeypatch, expected="broken").run("generate", [WorkItem("number", (0, 0), 1)])
    assert not list(tmp_path.iterdir())


@pytest.mark.faults
def test_a_node_on_which_no_actor_starts_does_not_end_the_work_of_others(ray_cluster, tmp_path, monkeypatch):
    actors = work(tmp_path, 2, monkeypatch, expected="sound once")
    items = [WorkItem("slow", (number, 0), 1) for number in range(10)]
    monkeypatch.setattr(actor_pool, "MAX_RETRIES", 1)
    assert actors.run("generate", items) == list(range(10))
    assert len(list(tmp_path.iterdir())) - 1 - len(items) > 2 * actor_pool.MAX_RETRIES  # processes that began


def test_work_does_not_wait_for_actors_that_never_start(ray_cluster, tmp_path, monkeypatch):
    """Eight are requested, and the cluster has room for four."""
    actors = work(tmp_path, 8, monkeypatch)
    pids = actors.run("generate", [WorkItem("who", (number, 0), 1) for number in range(60)])
    assert 1 <= len(set(pids)) <= 4
    assert begun(tmp_path) == [1] * 60
    assert set(actors.run("generate", [WorkItem("who", (0, 0), 1)])) <= set(pids)  # running actors are used again
