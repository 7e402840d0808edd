"""Tasks that die or find a full disk end a run in one line; and none of them is left working."""

import os
import time
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import ray
from programs import wait_until

from emage.on_ray import tasks
from emage.utils.errors import InputError

pytestmark = pytest.mark.ray


@ray.remote
def fill(path: str) -> None:
    with open(path, "wb") as file:
        file.write(bytes(1 << 20))


@ray.remote(max_retries=0)
def die() -> None:
    os._exit(1)


@ray.remote
def read_nothing() -> None:
    raise FileNotFoundError(2, "No such file or directory")


@ray.remote
def work_for_ever(folder: str) -> None:
    (Path(folder) / str(os.getpid())).touch()
    while True:
        time.sleep(0.01)


def test_a_full_disk_is_one_line(ray_cluster):
    if not Path("/dev/full").is_char_device():
        pytest.skip("no /dev/full here")
    with pytest.raises(InputError, match=r"^/data: the disk is full; free some space, and run the same command again$"):
        list(tasks.run([lambda: fill.remote("/dev/full")], max_running=lambda: 1, folder=Path("/data")))


def test_a_folder_without_permission_is_one_line():
    with (
        pytest.raises(InputError, match=r"^/data/x: no permission; let this user"),
        tasks.explain_disk_errors(Path("/data")),
    ):
        raise PermissionError(13, "Permission denied", "/data/x")


def test_a_resource_that_this_machine_lacks_is_not_waited_for(ray_cluster, monkeypatch, capsys):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="node_resource=download: this machine has no such resource"):
        tasks.resources_of_nodes("download")
    with pytest.raises(InputError, match="node_resource=GPU: every node has this"):
        tasks.resources_of_nodes("GPU")
    monkeypatch.setenv("RAY_ADDRESS", "a cluster, which may grow")
    assert (
        tasks.resources_of_nodes("download") == {"download": tasks.MARKER_AMOUNT} and tasks.resources_of_nodes("") == {}
    )
    assert capsys.readouterr().out == "no node with the resource 'download' is available yet: waiting for one\n"


def test_other_errors_keep_their_stack_trace(ray_cluster):
    with pytest.raises(FileNotFoundError) as error:
        list(tasks.run([read_nothing.remote], max_running=lambda: 1))
    assert "read_nothing" in str(error.value)


def test_a_worker_that_dies_again_and_again_is_one_line(ray_cluster):
    with pytest.raises(InputError, match=r"^a worker died in every attempt \(WorkerCrashedError") as error:
        list(tasks.run([die.remote], max_running=lambda: 1))
    assert "\n" not in str(error.value)


def test_no_task_writes_after_an_error(ray_cluster, tmp_path):
    def calls():
        yield lambda: work_for_ever.remote(str(tmp_path))
        while not list(tmp_path.iterdir()):  # until it is at work
            time.sleep(0.05)
        yield die.remote

    with pytest.raises(InputError), closing(tasks.run(calls(), max_running=lambda: 2)) as results:
        list(results)
    (worker,) = (int(file.name) for file in tmp_path.iterdir())

    def is_gone() -> bool:  # the raylet kills it, in its own time
        return not psutil.pid_exists(worker) or psutil.Process(worker).status() == psutil.STATUS_ZOMBIE

    wait_until(is_gone, 10)
