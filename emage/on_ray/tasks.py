"""Many Ray tasks, few at a time, and the bar that shows how far they are."""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import ray
from ray.exceptions import RayTaskError
from tqdm import tqdm

from emage.errors import InputError


def run(calls: Iterable[Callable[[], ray.ObjectRef]], at_once: int) -> Iterator[Any]:
    """Starts each call's task and yields the results as they come, with at most `at_once` tasks under way.

    `calls` is read only as far as there is room, so it may be as long as it likes. The first error stops everything.
    """
    under_way: list[ray.ObjectRef] = []
    try:
        for call in calls:
            if len(under_way) >= at_once:
                yield _next(under_way)
            under_way.append(call())
        while under_way:
            yield _next(under_way)
    finally:
        for ref in under_way:
            ray.cancel(ref)


def _next(under_way: list[ray.ObjectRef]) -> Any:
    (ready,), _ = ray.wait(under_way, num_returns=1)
    under_way.remove(ready)
    try:
        return ray.get(ready)
    except RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None  # a message, not a stack trace
        raise


def bar(stage: str, total: int, unit: str) -> tqdm:
    """Count, rate and time left; in a log, where every refresh is a new line, every ten seconds."""
    seconds = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(desc=stage, total=total, unit=f" {unit}", smoothing=0.1, mininterval=seconds, dynamic_ncols=True)
