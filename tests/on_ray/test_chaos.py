"""What is killed goes on: slow tests, run by `make chaos`. Each starts the real programs."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emage import manifest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    """A pipeline in a process group of its own, so that all that it started can be ended with it."""
    command = [sys.executable, "-u", str(ROOT / "pipelines" / "train.py"), *arguments]
    return subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-4000:]
    return output


def weights(output: Path) -> str:
    return manifest.read_json(output / "model" / "manifest.json")["files"]["model.safetensors"]


def test_training_killed_with_its_driver_ends_with_the_weights_of_an_unbroken_run(token_table: Path, tmp_path: Path):
    settings = ["tiny", f"data.path={token_table}", "run.checkpoint_every=5", "run.cpus_per_worker=1"]
    settings += ["run.num_workers=2", "run.zero_stage=1", "optim.micro_batch_size=2", "optim.ema=0.9"]
    finish(start(*settings, "run.output=whole", cwd=tmp_path))
    broken = start(*settings, "run.output=broken", cwd=tmp_path)
    try:
        deadline = time.monotonic() + 300
        # A checkpoint counts once Ray Train has noted it down; its folder is there before its files.
        noted = tmp_path / "broken" / "ray" / "checkpoint_manager_snapshot.json"
        while not (noted.exists() and "checkpoint_2" in noted.read_text()):
            assert broken.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
            time.sleep(0.2)
    finally:
        os.killpg(broken.pid, signal.SIGKILL)
        broken.communicate()
    assert not (tmp_path / "broken" / "model").exists(), "it was to be killed before its end"
    output = finish(start(*settings, "run.output=broken", cwd=tmp_path))
    assert "going on from step" in output
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    assert json.loads((tmp_path / "broken" / "model" / "manifest.json").read_text())["step"] == 20
