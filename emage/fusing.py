"""torch.compile where it is asked for: functions that run as they are written, and fused inside `with fused():`.

Modules have nn.Module.compile for this; a function that many share has no owner who could decide.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_wanted: ContextVar[bool] = ContextVar("fused", default=False)


def fusible(function: Callable[P, R]) -> Callable[P, R]:
    """The function, compiled when it is first called inside `with fused():`."""
    compiled = torch.compile(function)

    @functools.wraps(function)
    def either(*args: P.args, **kwargs: P.kwargs) -> R:
        return (compiled if _wanted.get() else function)(*args, **kwargs)

    return either


@contextmanager
def fused(wanted: bool = True) -> Iterator[None]:
    """In here fusible functions run compiled, or where it is not wanted as they are written."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)
