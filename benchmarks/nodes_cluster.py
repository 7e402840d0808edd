"""Parts of benchmarks/nodes.py: nodes simulated on this machine, a stage run on them, a node killed in the middle."""

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

LIMIT_S = 300.0  # for anything that is waited for
RAY_SETTINGS: dict[str, Any] = {}  # Ray's own, of the clusters: none, so that a lost node is noticed as everywhere


@dataclass
class Stage:
    """A program and how to see what it does. Its output is a folder."""

    unit: str
    total: int  # units
    worker: str  # title of the processes that do the work
    command: Callable[[Path], list[str]]  # of an output: pipelines/ program and its arguments
    outputs: Callable[[str], Path]  # a new output; what the stage starts from is in it
    done: Callable[[Path], int]  # units, or pieces of some, so far
    is_time: Callable[[int], bool]  # for the node to go, so much being done
    twice: Callable[[Path, str], str]  # units, of an output and what the program printed
    result: Callable[[Path], Any]  # what must be the same
    node: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 2})  # resources, of those at first
    added: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 2})  # and of the two that come
    num_nodes: int = 1


class Nodes:
    """A head without CPUs, and nodes that come and go. The nodes are processes of this machine."""

    def __init__(self) -> None:
        os.environ.setdefault(*launch.PROXY_HOOK)  # as in cluster/Dockerfile
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "_system_config": RAY_SETTINGS})

    @property
    def address(self) -> str:
        return self.cluster.address

    def add(self, **resources: Any) -> Any:
        return self.cluster.add_node(**resources)

    def lose(self, node: Any) -> None:
        """Kills its raylet, and with it its workers, without notice."""
        self.cluster.remove_node(node, allow_graceful=False)

    def titles(self, node: Any) -> set[str]:
        """Of the processes on a node: what they are doing."""
        found = set()
        for raylet in node.all_processes.get("raylet", []):
            with suppress(psutil.Error):
                for process in psutil.Process(raylet.process.pid).children(recursive=True):
                    with suppress(psutil.Error):
                        found.add(" ".join(process.cmdline()).strip())
        return found


@contextmanager
def simulated() -> Iterator[Nodes]:
    nodes = Nodes()
    try:
        yield nodes
    finally:
        nodes.cluster.shutdown()


@contextmanager
def watched(nodes: Nodes, members: list[Any]) -> Iterator[list[set[str]]]:
    """What was seen running on each of the nodes while the block ran."""
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
    """Seconds of the program, and its result."""
    output = stage.outputs("undisturbed")
    with simulated() as nodes:
        for _ in range(stage.num_nodes):
            nodes.add(**stage.node)
        started = time.monotonic()
        with Program(stage.command(output), nodes.address) as program:
            finish(program)
        return time.monotonic() - started, stage.result(output)


def losing_a_node(stage: Stage) -> tuple[dict[str, Any], Any]:
    """Figures of a run in which a node goes and two come, and its result."""
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
    """A program of pipelines/, by its name and arguments on a cluster, until the block ends; keeps what it prints."""

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
    """What it printed. Raises InputError where it failed."""
    try:
        code = program.process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        raise InputError(f"it did not end in {LIMIT_S:.0f} s: {program.printed[-3000:]}") from None
    program.reader.join()
    if code:
        raise InputError(f"it ended with {code}: {program.printed[-3000:]}")
    return program.printed


def wait_for(is_so: Callable[[], object], program: Program) -> None:
    """Raises InputError where the program ends before, or nothing comes of it."""
    deadline = time.monotonic() + LIMIT_S
    while not is_so():
        if program.poll() is not None or time.monotonic() > deadline:
            raise InputError(f"it never came so far: {program.printed[-3000:]}")
        time.sleep(0.01)
