"""An evaluation whose actor and whose driver are killed ends with the bytes of an undisturbed one.

Run by `make chaos`.
"""

import hashlib
import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from programs import finish, kill_when, pipeline, start

from emage.data import shapes

pytestmark = pytest.mark.chaos
CAPTIONS, CANDIDATES, SHARDS = 384, 4, 6


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    scenes = shapes.sample_held_out_scenes(CAPTIONS, 0)
    (tmp_path / "captions.txt").write_text("".join(f"{scene.caption}\n" for scene in scenes))
    return tmp_path / "captions.txt"


def command(model: Path, captions: Path, output: Path) -> list[str]:
    return [
        *pipeline("evaluate", "tiny", f"checkpoint={model}", f"captions={captions}", f"output={output}"),
        *(f"candidates={CANDIDATES}", f"limit={CAPTIONS}", "num_actors=2", "batch_size=16", "metrics=[shapes]"),
        *("sampling.steps=8", "mlflow.enabled=false"),
    ]


def num_shards(output: Path) -> int:
    return len(list((output / "shards").glob("*.json")))


def drawers(process) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "ray::EvaluationActor" in " ".join(child.cmdline())]


def result(output: Path) -> tuple[dict[str, str], dict]:
    files = sorted(output.rglob("*.tar"))
    digests = {str(file.relative_to(output)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
    return digests, json.loads((output / "report.json").read_text())["figures"]


def test_killed_actor_and_killed_driver_change_nothing(tiny_model: Path, captions: Path, tmp_path: Path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(start(command(tiny_model, captions, whole)))
    assert num_shards(whole) == SHARDS

    first = start(command(tiny_model, captions, broken))
    kill_when(first, lambda: num_shards(broken) >= 2)
    there = {file: file.stat().st_mtime_ns for file in (broken / "shards").glob("*.json")}
    assert 2 <= len(there) < SHARDS

    second = start(command(tiny_model, captions, broken))
    deadline = time.monotonic() + 200
    while num_shards(broken) <= len(there):
        assert second.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    (victim, *_) = drawers(second)
    os.kill(victim.pid, signal.SIGKILL)
    output = finish(second)
    assert "draw" in output
    assert result(broken) == result(whole)
    assert all(file.stat().st_mtime_ns == when for file, when in there.items())  # none was generated again
