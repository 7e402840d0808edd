"""Jobs on a cluster with a token, as people submit them: what runs, what is refused, what reaches the submitter."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from programs import ROOT, free_port

pytestmark = pytest.mark.slow
RAY = str(Path(sys.executable).with_name("ray"))
Submit = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def token() -> str:
    return secrets.token_hex(32)


@pytest.fixture(scope="module")
def submit(token: str, tmp_path_factory) -> Iterator[Submit]:
    """`ray job submit` to a head of its own."""
    port, dashboard = free_port(), free_port()
    address = f"http://127.0.0.1:{dashboard}"
    command = [RAY, "start", "--head", "--block", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=4"]
    command += ["--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1", "--disable-usage-stats"]
    with_token = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    with_token.pop("RAY_ADDRESS", None)
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as file:
        head = subprocess.Popen(
            command, env=with_token, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, cwd=log.parent
        )

    def run(name: str, *job: str, token: str = token) -> "subprocess.CompletedProcess[str]":
        line = [RAY, "job", "submit", f"--address={address}", f"--submission-id={name}", "--working-dir=."]
        environment = with_token | {"RAY_AUTH_TOKEN": token}
        return subprocess.run(
            [*line, "--", *job], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300
        )

    try:
        deadline = time.monotonic() + 90
        while run("hello", sys.executable, "-c", "print('hello')").returncode:
            assert head.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(2)
        yield run
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(timeout=60)


def test_a_job_trains_and_its_log_and_exit_code_reach_whoever_submitted_it(submit, token_table, tmp_path: Path):
    command = (sys.executable, "pipelines/train.py", "tiny", f"data.path={token_table}", "mlflow.enabled=false")
    done = submit("train-1", *command, f"run.output={tmp_path / 'run'}", "optim.steps=10")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
    assert "Job 'train-1' succeeded" in done.stdout + done.stderr


def test_the_same_name_does_not_start_twice(submit, tmp_path: Path):
    mark = tmp_path / "mark"
    job = (sys.executable, "-c", f"open({str(mark)!r}, 'a').write('x')")
    assert submit("once", *job).returncode == 0
    again = submit("once", *job)
    assert again.returncode != 0 and "already exists" in again.stdout + again.stderr
    assert mark.read_text() == "x"


def test_bad_settings_end_the_job_with_their_line(submit, tmp_path: Path):
    done = submit("bad", sys.executable, "pipelines/train.py", "tinny", f"run.output={tmp_path}")
    assert done.returncode != 0
    assert "error: " in done.stdout and "tiny" in done.stdout


def test_a_wrong_token_is_refused(submit, tmp_path: Path):
    mark = tmp_path / "mark"
    done = submit("thief", sys.executable, "-c", f"open({str(mark)!r}, 'w')", token="0" * 64)
    assert done.returncode != 0 and not mark.exists()
    assert "Unauthorized" in done.stdout + done.stderr or "Authentication" in done.stdout + done.stderr
