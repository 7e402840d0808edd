"""Part of benchmarks/nodes.py: simulated nodes, and a stage that runs on them with and without the loss of a node."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
from ray.cluster_utils import Cluster
from serve_program import ROOT

from emage.on_ray import launch
from emage.utils.errors import InputError

LIMIT_S = 300.0  # timeout of every wait
# Of the clusters. Empty: Ray's defaults, so that a lost node is detected as in production; tests change them.
RAY_SETTINGS: dict[str, Any] = {}


@dataclass
class Stage:
    """A program, and functions that observe its progress. Its output is a folder."""

    unit: str
    total: int  # units
    worker: str  # part of the titles of the processes that do the work
    command: Callable[[Path], list[str]]  # output -> program of pipelines/ and its arguments
    outputs: Callable[[str], Path]  # name -> a new output folder with the inputs of the stage
    done: Callable[[Path], int]  # output -> units (or groups of them) that are finished
    is_time: Callable[[int], bool]  # finished units -> whether to kill the node now
    twice: Callable[[Path, str], str]  # (output, printed text) -> units that were done twice
    result: Callable[[Path], Any]  # output -> what must be equal in both runs
    node: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 2})  # resources of the first nodes
    added: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 2})  # resources of the two new nodes
    num_nodes: int = 1


class Nodes:
    """A cluster of processes on this machine: a head without CPUs, and nodes that can be added and killed."""

    def __init__(self) -> None:
        os.environ.setdefault(*launch.PROXY_HOOK)  # as in cluster/Dockerfile
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": RAY_SETTINGS})

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self, **resources: Any) -> Any:
        """Add a node with these resources; return it."""
        return self.cluster.add_node(**resources)

    def lose(self, node: Any) -> None:
        """Kill its raylet, and with it its workers, without notice."""
        self.cluster.remove_node(node, allow_graceful=False)

    def titles(self, node: Any) -> set[str]:
        """Return the titles of the processes on a node, which name their current work."""
        found = set()
        for raylet in node.all_processes.get("raylet", []):
            with suppress(psutil.Error):
                for process in psutil.Process(raylet.process.pid).children(recursive=True):
                    with suppress(psutil.Error):
                        found.add(" ".join(process.cmdline()).strip())
        return found


@contextmanager
def simulated() -> Iterator[Nodes]:
    """Yield a cluster without nodes; shut it down after the block."""
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.cluster.shutdown()


@contextmanager
def watched(nodes: Nodes, members: list[Any]) -> Iterator[list[set[str]]]:
    """Yield sets of the process titles seen on each of the nodes while the block runs."""
    seen: list[set[str]] = [set() for _ in members]
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(0.2):
            for found, node in zip(seen, members, strict=True):
                found |= nodes.titles(node)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()


def undisturbed(stage: Stage) -> tuple[float, Any]:
    """Return the seconds of the program, and its result."""
    output = stage.outputs("undisturbed")
    with simulated() as nodes:
        for _ in range(stage.num_nodes):
            nodes.add(**stage.node)
        started = time.monotonic()
        with Program(stage.command(output), nodes.address) as program:
            finish(program)
        return time.monotonic() - started, stage.result(output)


def losing_a_node(stage: Stage) -> tuple[dict[str, Any], Any]:
    """Return the measurements of a run that loses a node and gets two new ones, and its result."""
    output = stage.outputs("disturbed")
    with simulated() as nodes:
        members = [nodes.add(**stage.node) for _ in range(stage.num_nodes)]
        started = time.monotonic()
        with Program(stage.command(output), nodes.address) as program:
            wait_for(lambda: stage.is_time(stage.done(output)), program)
            lost = time.monotonic()
            nodes.lose(members[0])
            before = stage.done(output)
            added = [nodes.add(**stage.added) for _ in range(2)]
            with watched(nodes, added) as seen:
                wait_for(lambda: program.poll() is not None or stage.done(output) > before, program)
                recovered = time.monotonic() - lost
                printed = finish(program)
        seconds = time.monotonic() - started
    at_work = sum(any(stage.worker in title for title in titles) for titles in seen)
    return {
        "seconds": seconds,
        "recovered_s": recovered,
        "total": stage.total,
        "unit": stage.unit,
        "done_twice": stage.twice(output, printed),
        "new_nodes_at_work": at_work,
    }, stage.result(output)


# --- Programs ---------------------------------------------------------------------------------------------------------


class Program:
    """A program of pipelines/ that runs on a cluster until the block ends; its printed text is kept."""

    def __init__(self, command: list[str], address: str):
        command = [sys.executable, "-u", str(ROOT / "pipelines" / f"{command[0]}.py"), *command[1:]]
        environment = os.environ | {"RAY_ADDRESS": address}
        pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.process = subprocess.Popen(command, env=environment, start_new_session=True, **pipe)
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def poll(self) -> int | None:
        """Return the exit code; None while the program runs."""
        return self.process.poll()

    @property
    def printed(self) -> str:
        return "".join(self.lines)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


def finish(program: Program) -> str:
    """Wait for the program and return its printed text. Raise InputError if it fails."""
    try:
        code = program.process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        raise InputError(f"the program did not end in {LIMIT_S:.0f} s: {program.printed[-3000:]}") from None
    program.reader.join()
    if code:
        raise InputError(f"the program ended with exit code {code}: {program.printed[-3000:]}")
    return program.printed


def wait_for(condition: Callable[[], object], program: Program) -> None:
    """Wait for a condition. Raise InputError if the program ends before, or after LIMIT_S."""
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        if program.poll() is not None or time.monotonic() > deadline:
            raise InputError(f"the expected state was not reached: {program.printed[-3000:]}")
        time.sleep(0.01)
