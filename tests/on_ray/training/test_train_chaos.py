"""Training that is killed or out of disk space resumes to the same weights, step by step.

In `make faults`, except for another number of workers (`make chaos`). The tests compare steps.jsonl, which has the bits
of every step's loss and a checksum of its samples.
"""

import json
import os
import random
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from programs import NOTICED_SOON, finish, kill_when, pipeline, start

from emage.training import step_log
from emage.utils import manifest

STEPS, EVERY = 120, 20
BITS = ("step", "loss", "grad_norm", "lr", "samples", "skipped")


SETTINGS = f"""
    optim.steps={STEPS} optim.micro_batch_size=3 optim.ema=0.9 optim.lr=0.005 optim.max_spike=0.05 run.max_skipped=1000
    run.num_workers=2 run.cpus_per_worker=1 run.zero_stage=1 run.checkpoint_every={EVERY} run.sample_every=60
    model.width=32 model.depth=1
"""


def arguments(table: Path, output: Path, *more: str) -> list[str]:
    """Return the arguments of a run that skips some steps, since optim.max_spike is small."""
    paths = [f"data.path={table}", f"run.output={output}", f"mlflow.uri=sqlite:///{output.parent}/mlflow.db"]
    return ["tiny", *paths, f"mlflow.artifacts={output.parent}/artifacts", *SETTINGS.split(), *more]


def record(output: Path) -> list[tuple]:
    """Return the loss and the samples of every step, bit by bit."""
    return [tuple(values[name] for name in BITS) for values in step_log.read(output / "steps.jsonl")]


def saved(output: Path) -> list[int]:
    """Return the steps that have a checkpoint for resuming."""
    return sorted(int(path.name.removeprefix("step_")) for path in (output / "checkpoints").glob("step_*"))


def weights(output: Path) -> str:
    return manifest.read_json(output / "model" / "manifest.json")["files"]["model.safetensors"]


def logged(output: Path) -> list[int]:
    """Return the steps at which MLflow has a loss, over all runs."""
    with sqlite3.connect(output.parent / "mlflow.db") as store:
        return [row[0] for row in store.execute("select step from metrics where key = 'loss' order by step")]


@pytest.fixture(scope="module")
def whole(token_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of an uninterrupted run."""
    output = tmp_path_factory.mktemp("whole") / "out"
    finish(start(pipeline("train", *arguments(token_table, output))))
    assert [values[0] for values in record(output)] == list(range(1, STEPS + 1))
    skipped = sum(values[-1] for values in record(output))
    assert 0 < skipped < STEPS / 2, "skipped steps and the number of updates must be resumed too"
    return output


def past(output: Path, step: int) -> Callable[[], bool]:
    return lambda: step_log.last_step(output / "steps.jsonl") >= step


def settle(output: Path) -> None:
    """Wait until the workers have stopped: for a moment they train on after their node's daemon is gone."""
    before = -1
    while (now := step_log.last_step(output / "steps.jsonl")) != before:
        before = now
        time.sleep(3)


def kill_a_worker(driver_pid: int, rank: int) -> int:
    """Send SIGKILL to one of the workers, as the kernel does when memory is short. Return its process id."""
    workers = [
        process
        for process in psutil.Process(driver_pid).children(recursive=True)
        if "RayTrainWorker" in " ".join(process.cmdline())
    ]
    chosen = sorted(workers, key=lambda process: process.pid)[rank]
    chosen.kill()
    return chosen.pid


@pytest.mark.faults
def test_killed_three_times(token_table: Path, whole: Path, tmp_path: Path):
    """A worker is killed, then twice the driver with all its children, at random steps: the same bits at the end."""
    output = tmp_path / "out"
    rng = random.Random(time.time_ns())
    worker, *drivers = sorted(rng.sample(range(1, STEPS - 2), 3))
    rank = rng.randrange(2)
    print(f"worker {rank} killed after step {worker}, the driver after {drivers}")
    command = pipeline("train", *arguments(token_table, output))
    first, killed = start(command), []

    def is_time() -> bool:
        if not killed and past(output, worker)():
            killed.append(kill_a_worker(first.pid, rank))
        return past(output, drivers[0])()

    kill_when(first, is_time)
    kill_when(start(command), past(output, drivers[1]))
    assert killed and not (output / "model").exists()
    finish(start(command))
    assert record(output) == record(whole) and weights(output) == weights(whole)
    assert logged(output) == logged(whole), "one MLflow run over all restarts, no step twice"


@pytest.mark.faults
def test_a_damaged_checkpoint_is_skipped(token_table: Path, whole: Path, tmp_path: Path):
    output = tmp_path / "out"
    command = pipeline("train", *arguments(token_table, output, "run.keep=2", "run.keep_every=40"))
    kill_when(start(command), lambda: (output / "checkpoints" / "step_00000040").exists())
    settle(output)
    newest = max((output / "checkpoints").glob("step_*"))
    file = newest / "moments.safetensors"
    os.truncate(file, file.stat().st_size - 8)
    printed = finish(start(command))
    assert f"{newest} is skipped for the checkpoint before it" in printed
    assert record(output) == record(whole) and weights(output) == weights(whole)
    assert saved(output) == [40, 80, 100, 120]  # the two newest, and every fortieth step's


@pytest.mark.chaos
def test_another_number_of_workers_sees_the_same_samples(token_table: Path, whole: Path, tmp_path: Path):
    """Three instead of two, without ZeRO instead of stage 1, from the middle: unequal batches, losses within 1e-5."""
    output = shutil.copytree(whole, tmp_path / "out")
    shutil.rmtree(output / "model")
    for path in sorted((output / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)
    (kept,) = (output / "checkpoints").iterdir()
    step = manifest.read_json(kept / "manifest.json")["step"]
    more = ("run.num_workers=3", "run.zero_stage=0", "optim.micro_batch_size=2", "mlflow.enabled=false")
    printed = finish(start(pipeline("train", *arguments(token_table, output, *more))))
    assert f"resuming from step {step}, saved by 2 workers, with 3 now" in printed
    before, after = record(whole), record(output)
    assert [values[4] for values in after] == [values[4] for values in before]
    losses = [[values[1] for values in run] for run in (before, after)]
    assert losses[1][: step + 10] == pytest.approx(losses[0][: step + 10], abs=1e-5)
    assert losses[1] == pytest.approx(losses[0], abs=1e-2)  # rounding errors grow


@pytest.mark.faults
def test_losing_a_node_with_and_without_notice(token_table: Path, whole: Path, tmp_path: Path):
    """Two simulated nodes with one worker each: one is drained, after a checkpoint is saved; the other one dies."""
    from ray.cluster_utils import Cluster

    output = tmp_path / "out"
    command = pipeline("train", *arguments(token_table, output, "run.checkpoint_every=50"))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": NOTICED_SOON})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        driver = start(command, RAY_ADDRESS=cluster.address)
        wait_for(past(output, 3), driver)
        drain(cluster.address, nodes[0].node_id, seconds=120)
        wait_for(lambda: [step for step in saved(output) if step % 50], driver)
        noticed = max(saved(output))
        cluster.add_node(num_cpus=1)
        cluster.remove_node(nodes[0], allow_graceful=False)
        wait_for(lambda: max(saved(output)) > noticed, driver)
        cluster.add_node(num_cpus=1)
        cluster.remove_node(nodes[1], allow_graceful=False)
        printed = finish(driver)
    finally:
        cluster.shutdown()
    assert f"resuming from step {noticed}" in printed
    assert record(output) == record(whole) and weights(output) == weights(whole)


def drain(address: str, node_id: str, seconds: float) -> None:
    """Announce in Ray that a node will be preempted, as a cloud's notice does."""
    from ray._raylet import GcsClient
    from ray.core.generated.autoscaler_pb2 import DRAIN_NODE_REASON_PREEMPTION

    deadline = int((time.time() + seconds) * 1000)
    assert GcsClient(address=address).drain_node(node_id, DRAIN_NODE_REASON_PREEMPTION, "spot", deadline)[0]


def wait_for(is_so: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not is_so():
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)


def error(printed: str) -> str:
    """Return the one line of the error; Ray may print output of its workers after it.

    Ray Train's own cleaner is ignored, which complains on a busy machine that Ray has stopped.
    """
    lines = [line for line in printed.splitlines() if "(PlacementGroupCleaner " not in line]
    assert not [line for line in lines if "Traceback" in line]
    (line,) = [line for line in lines if line.startswith("error: ")]
    return line


@pytest.mark.faults
def test_a_full_disk_costs_checkpoints_but_not_the_run(token_table: Path, whole: Path, tmp_path: Path, small_disk):
    """There is space for two checkpoints, not for a third or the model: training continues, and fails at its end."""
    one = sum(file.stat().st_size for file in next((whole / "checkpoints").iterdir()).iterdir()) // 1024
    output = small_disk(int(2.12 * one)) / "out"
    more = ("run.keep=3", f"mlflow.uri=sqlite:///{tmp_path}/mlflow.db", f"mlflow.artifacts={tmp_path}/artifacts")
    command = pipeline("train", *arguments(token_table, output, *more))
    printed = finish(start(command), code=2)
    assert "no checkpoint at step 60" in printed and "No space left on device" in printed
    assert "make room there" in error(printed)
    assert not (output / "model").exists()
    assert saved(output) == [20, 40]
    small_disk(100 * one)
    finish(start(command))
    assert record(output) == record(whole) and weights(output) == weights(whole)


@pytest.mark.faults
def test_a_diverging_run_stops_and_names_the_rows(token_table: Path, tmp_path: Path):
    output = tmp_path / "out"
    more = ("optim.lr=1e30", "optim.max_spike=3.0", "run.max_skipped=3")
    printed = finish(start(pipeline("train", *arguments(token_table, output, *more))), code=2)
    assert error(printed).startswith("error: 4 steps were skipped")
    skipped = [json.loads(line) for line in (output / "skipped.jsonl").read_text().splitlines()]
    assert len(skipped) == 4 and all(len(set(values["uid"])) == 8 for values in skipped)
    assert [values["step"] for values in skipped] == [values[0] for values in record(output) if values[-1]]
    assert not (output / "model").exists()
