"""Part of benchmarks/serve.py: the server, which is pipelines/serve.py as a user starts it, and its processes."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from serve_client import open_session

from emage.utils.errors import InputError

ROOT = Path(__file__).resolve().parents[1]
KINDS = {"ray::ServeReplica:emage:": "", "ray::Proxy": "proxy", "ray::ServeController": "controller"}  # process titles


def arguments(model: str, settings: dict[str, Any]) -> list[str]:
    """Return arguments of pipelines/serve.py with a port that is free now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    own = [f"{key}={value}" for key, value in settings.items()]
    return ["demo", f"checkpoint={model}", f"port={port}", "mlflow.enabled=false", *own]


@contextmanager
def serving(arguments: list[str], port: int, folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """Start the server; yield its URL and process once /health answers; stop it by SIGTERM."""
    command = [sys.executable, "-u", str(ROOT / "pipelines/serve.py"), *arguments]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    url, log = f"http://127.0.0.1:{port}", folder / "serve.log"
    with open(log, "w") as output:
        options = {"stdout": output, "stderr": output, "cwd": folder, "env": environment, "start_new_session": True}
        process = subprocess.Popen(command, **options)
    try:
        asyncio.run(until_healthy(url, process, log))
        yield url, process
    finally:
        process.terminate()
        try:
            process.wait(120)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


async def until_healthy(url: str, process: subprocess.Popen, log: Path) -> None:
    """Wait until /health answers 200. Raise InputError if the server ends, or after five minutes."""
    deadline = time.monotonic() + 300
    async with open_session(url, 5) as session:
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(aiohttp.ClientError, TimeoutError):
                async with session.get("/health") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.2)
    raise InputError(f"the server did not start: {log.read_text()[-2000:]}")


def processes(server: psutil.Process) -> dict[str, list[psutil.Process]]:
    """Return the server's processes by kind: the program, Serve's own, replicas of each deployment, the rest of Ray."""
    found: dict[str, list[psutil.Process]] = {"program": [server]}
    for process in server.children(recursive=True):
        with suppress(psutil.Error):
            found.setdefault(kind(" ".join(process.cmdline())), []).append(process)
    return found


def kind(title: str) -> str:
    """Return the kind of a process by its title, such as `ray::ServeReplica:emage:Model.generate`."""
    prefix = next((prefix for prefix in KINDS if title.startswith(prefix)), None)
    if prefix is None:
        return "rest of Ray"
    return KINDS[prefix] or title.removeprefix(prefix).partition(".")[0].strip()


def megabytes(server: psutil.Process) -> dict[str, tuple[float, ...]]:
    """Return RSS, USS and PSS in megabytes by kind of process."""
    found: dict[str, tuple[float, ...]] = {}
    for name, members in processes(server).items():
        infos = []
        for process in members:
            with suppress(psutil.Error):  # the process has ended
                infos.append(process.memory_full_info())
        found[name] = tuple(sum(getattr(info, unit) for info in infos) / 1e6 for unit in ("rss", "uss", "pss"))
    return found
