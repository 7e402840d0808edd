"""Many Ray tasks, few at a time; what ends them, in one line; and the bar that shows how far they are."""

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

from emage.utils.errors import InputError

A_LITTLE = 0.001  # of a custom resource: it says where, not how many
BUILT_IN = ("CPU", "GPU", "memory", "object_store_memory")  # resources of every node, which say nothing of where
CANCEL_S = 30.0  # for the workers of cancelled tasks to die; more only where their node went away

# What a person can mend, by the error's number. Everything else is a bug and keeps its stack trace.
MENDABLE = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EFBIG: "a file grew over the limit of this system (ulimit -f); raise it",
    errno.EROFS: "the file system is read-only; mount it for writing on every node",
    errno.EACCES: "no permission; let this user read and write there on every node",
    errno.EPERM: "no permission; let this user read and write there on every node",
}


def nodes(node_resource: str = "") -> list[dict[str, float]]:
    """The resources of each node that is alive and has this custom resource; "": of every one."""
    alive = (node["Resources"] for node in ray.nodes() if node["Alive"])
    return [resources for resources in alive if not node_resource or node_resource in resources]


def only_on(node_resource: str) -> dict[str, float]:
    """The `resources` of a task or an actor that only nodes with this custom resource take; "": any node.

    Says so where there is no such node yet. Raises InputError for a resource that every node has, and on this machine
    alone, to which none will come.
    """
    if not node_resource:
        return {}
    if node_resource in BUILT_IN:
        raise InputError(f"node_resource={node_resource}: not one of Ray's own; give nodes one (ray start --resources)")
    if not nodes(node_resource):
        if not os.environ.get("RAY_ADDRESS"):
            raise InputError(f"node_resource={node_resource}: this machine has no such resource; leave it out here")
        print(f"no node with the resource {node_resource!r} is there yet: waiting for one", flush=True)
    return {node_resource: A_LITTLE}


def half_of_the_cpus(node_resource: str = "") -> int:
    """Tasks that are under way at once by default: one for two CPUs of the nodes that are there now."""
    return max(1, int(sum(node.get("CPU", 0) for node in nodes(node_resource))) // 2)


def run(
    calls: Iterable[Callable[[], ray.ObjectRef]],
    folder: Path | None = None,
    at_once: Callable[[], int] = half_of_the_cpus,
) -> Generator[Any, None, None]:
    """Starts each call's task and yields the results as they come, with at most `at_once()` tasks under way.

    That is asked before each start, so that nodes which come get work too. `calls` is read only as far as there is
    room, so it may be as long as it likes. The first error stops everything: when it is raised (or this generator
    closed), no task writes any more. What a person can mend, such as a full disk or a worker without memory, is an
    InputError; `folder` is the place that it names where the error knows none.
    """
    under_way: list[ray.ObjectRef] = []
    try:
        for call in calls:
            while len(under_way) >= at_once():
                yield _next(under_way, folder)
            under_way.append(call())
        while under_way:
            yield _next(under_way, folder)
    finally:
        _kill(under_way)


def _next(under_way: list[ray.ObjectRef], folder: Path | None) -> Any:
    (ready,), _ = ray.wait(under_way, num_returns=1)
    under_way.remove(ready)
    try:
        return ray.get(ready)
    except RayTaskError as error:
        message = error.cause if isinstance(error.cause, InputError) else _mendable(error.cause, folder)
        if message is None:
            raise
        raise message from None  # without a stack trace
    except (WorkerCrashedError, NodeDiedError, OutOfMemoryError, OutOfDiskError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"a worker died once more than Ray tries again ({type(error).__name__}: {reason}); look at the memory and "
            "the disk of its node, run fewer tasks at once, and give the same command again"
        ) from None


def _kill(refs: list[ray.ObjectRef]) -> None:
    """Ends tasks with their worker processes and waits until Ray has cancelled them.

    A process may last a moment longer. A gentle cancel would hang: it makes the worker leave img2dataset's loop, whose
    thread pool then waits for ever.
    What a task leaves behind is what any killed worker leaves, and is cleared away likewise.
    """
    for ref in refs:
        ray.cancel(ref, force=True)
    if refs:
        ray.wait(refs, num_returns=len(refs), timeout=CANCEL_S, fetch_local=False)


@contextmanager
def writing(folder: Path | None) -> Iterator[None]:
    """Turns a full disk or a folder that cannot be written into an InputError of one line."""
    try:
        yield
    except OSError as error:
        if (message := _mendable(error, folder)) is None:
            raise
        raise message from None


def _mendable(error: Exception, folder: Path | None) -> InputError | None:
    """What to tell a person about an error of the disk; None where it is another."""
    if not isinstance(error, OSError) or error.errno not in MENDABLE:
        return None
    path = error.filename or folder or "the output"
    return InputError(f"{path}: {MENDABLE[error.errno]}, and give the same command again")


def bar(stage: str, total: int, unit: str, done: int = 0) -> tqdm:
    """Count, rate and time left; in a log, where every refresh is a new line, every ten seconds.

    `done` of the `total` were there before this run: they count, but not in the rate.
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
