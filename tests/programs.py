"""Starts programs as a user does, and kills them."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[1]
NOTICED_SOON = {"health_check_period_ms": 500}  # of a simulated cluster: a lost node is noticed after 3 s instead of 15


def pipeline(name: str, *arguments: str) -> list[str]:
    """Return the command of pipelines/NAME.py."""
    return [sys.executable, "-u", str(ROOT / "pipelines" / f"{name}.py"), *arguments]


def free_port() -> int:
    """Return a free port of 127.0.0.1, for a server that cannot choose one itself."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def status(url: str, **headers: str) -> int:
    """Return the status of a GET; 0 if no server answers."""
    try:
        return httpx.get(url, headers=headers, timeout=20).status_code
    except httpx.TransportError:
        return 0


def wait_until(is_so: Callable[[], object], seconds: float, why: Callable[[], object] = lambda: "") -> None:
    """Wait until the condition is true; fail after so many seconds, with the message of `why`."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, why()
        time.sleep(0.1)


def start(command: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a command in a process group of its own, so that all its children can be killed with it."""
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, text=True, start_new_session=True, env=os.environ | environment, **pipe)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for the end, check the exit code, and return what was printed."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output[-4000:]
    return output


def kill_when(process: subprocess.Popen[str], is_time: Callable[[], bool]) -> None:
    """Send SIGKILL to the driver and all its children once `is_time`, as if the machine lost power."""
    deadline = time.monotonic() + 200
    try:
        while not is_time():
            assert process.poll() is None, process.communicate()[0][-4000:]
            assert time.monotonic() < deadline, "the moment to kill it never came"
            time.sleep(0.01)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
