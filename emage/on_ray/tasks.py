"""Run many Ray tasks, a few at a time; turn errors that a user can fix into one line; show progress.

The caller passes functions that each start one task; `run` yields the tasks' results and raises their errors.
"""

import errno
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import NodeDiedError, OutOfDiskError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from tqdm import tqdm

from emage.utils.errors import InputError, first_line

MARKER_AMOUNT = (
    0.001  # of a node's custom resource, per task: so little that the resource does not limit the number of tasks
)
BUILT_IN_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")  # every node has them
CANCEL_TIMEOUT_S = 30.0  # for the workers of cancelled tasks to die; they take longer only if their node is lost

# Errors that a user can fix, by number. Everything else is a bug and keeps its stack trace.
FIXABLE_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "a file grew over the limit of this system (ulimit -f); raise it",
    errno.EROFS: "the file system is read-only; mount it for writing on every node",
    errno.EACCES: "no permission; let this user read and write there on every node",
    errno.EPERM: "no permission; let this user read and write there on every node",
}


def list_nodes(node_resource: str = "") -> list[dict[str, float]]:
    """Return the resources of each node that is alive and has this custom resource; "": of every node."""
    alive = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return [resources for resources in alive if not node_resource or node_resource in resources]


def resources_of_nodes(node_resource: str) -> dict[str, float]:
    """Return the `resources` option of a task or actor that runs only on nodes with this custom resource.

    Prints a line if no such node is alive yet.

    Args:
        node_resource: Name of the resource; "": any node.

    Raises:
        InputError: It is a resource that every node has; or RAY_ADDRESS is not set and this machine lacks it.
    """
    if not node_resource:
        return {}
    if node_resource in BUILT_IN_RESOURCES:
        raise InputError(
            f"node_resource={node_resource}: every node has this; name a custom one (ray start --resources)"
        )
    if not list_nodes(node_resource):
        if not os.environ.get("RAY_ADDRESS"):
            raise InputError(f"node_resource={node_resource}: this machine has no such resource; leave it out here")
        print(f"no node with the resource {node_resource!r} is available yet: waiting for one", flush=True)
    return {node_resource: MARKER_AMOUNT}


def default_concurrency(node_resource: str = "") -> int:
    """Return the default number of tasks at once: one per two CPUs of the nodes that are alive now."""
    return max(1, int(sum(node.get("CPU", 0) for node in list_nodes(node_resource))) // 2)


def run(
    calls: Iterable[Callable[[], ray.ObjectRef]],
    folder: Path | None = None,
    max_running: Callable[[], int] = default_concurrency,
) -> Generator[Any, None, None]:
    """Start each call's task and yield the results as they arrive.

    The first error ends all tasks. After it is raised, or this generator is closed, no task writes any more.

    Args:
        calls: Each starts one task and returns its ObjectRef. A call is made only when a task may run, so there may be
            any number.
        folder: The path for an error's message, if the error names none.
        max_running: Returns how many tasks may run at once. It is called before each start, so that nodes which join
            later get work too.

    Raises:
        InputError: The user can fix it: a full disk, or a worker without memory, for example.
    """
    running: list[ray.ObjectRef] = []
    try:
        for call in calls:
            while len(running) >= max_running():
                yield _next_result(running, folder)
            running.append(call())
        while running:
            yield _next_result(running, folder)
    finally:
        _kill(running)


def _next_result(running: list[ray.ObjectRef], folder: Path | None) -> Any:
    (ready,), _ = ray.wait(running, num_returns=1)
    running.remove(ready)
    try:
        return ray.get(ready)
    except RayTaskError as error:
        input_error = error.cause if isinstance(error.cause, InputError) else _to_input_error(error.cause, folder)
        if input_error is None:
            raise
        raise input_error from None  # without a stack trace
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError, OutOfDiskError) as error:
        raise InputError(
            f"a worker died in every attempt ({type(error).__name__}: {first_line(error)}); look at the memory and the "
            "disk of its node, run fewer tasks at once, and run the same command again"
        ) from None


def _kill(refs: list[ray.ObjectRef]) -> None:
    """Kill tasks with their worker processes and wait until Ray has cancelled them. A process may end a moment later.

    Without `force` the cancel would hang: it makes the worker leave img2dataset's loop, whose thread pool then waits
    forever. A killed task leaves the same files as a lost worker; the next attempt deletes them.
    """
    for ref in refs:
        ray.cancel(ref, force=True)
    if refs:
        ray.wait(refs, num_returns=len(refs), timeout=CANCEL_TIMEOUT_S, fetch_local=False)


@contextmanager
def explain_disk_errors(folder: Path | None) -> Iterator[None]:
    """Turn a full disk, or a folder that cannot be written, into an InputError of one line.

    Args:
        folder: The path for the message, if the error names none.
    """
    try:
        yield
    except OSError as error:
        if (input_error := _to_input_error(error, folder)) is None:
            raise
        raise input_error from None


def _to_input_error(error: Exception, folder: Path | None) -> InputError | None:
    """Return an InputError for a disk error that a user can fix; None for any other error."""
    if not isinstance(error, OSError) or error.errno not in FIXABLE_ERRORS:
        return None
    path = error.filename or folder or "the output"
    return InputError(f"{path}: {FIXABLE_ERRORS[error.errno]}, and run the same command again")


def progress_bar(stage: str, total: int, unit: str, done: int = 0) -> tqdm:
    """Return a bar with count, rate and time left; in a log, where every refresh is a new line, every ten seconds.

    Args:
        stage: Label of the bar.
        total: Count at the end.
        unit: Unit of the count, plural.
        done: Part of the total that an earlier run has done. It is in the count, not in the rate.
    """
    seconds = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(
        desc=stage,
        total=total,
        initial=done,
        unit=f" {unit}",
        smoothing=0.1,
        mininterval=seconds,
        dynamic_ncols=True,
    )
