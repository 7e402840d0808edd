"""torch.compile by choice: functions that run as they are written, and fused inside `with fused():`.

Who owns a model decides, not its modules: the same network is drawn from with it and saved without.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_wanted: ContextVar[bool] = ContextVar("fused", default=False)


def fusible(function: Callable[P, R]) -> Callable[P, R]:
    """The function, or method; compiled when it is first called inside `with fused():`."""

    @functools.cache
    def compiled() -> Any:  # loading the compiler takes a second
        # Whole variants (batch 1 or more, with top_k, ...) of all models count; past the limit nothing is compiled.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        return torch.compile(function)

    @functools.wraps(function)
    def either(*args: P.args, **kwargs: P.kwargs) -> R:
        return (compiled() if _wanted.get() and not torch.compiler.is_compiling() else function)(*args, **kwargs)

    return either


@contextmanager
def fused(wanted: bool = True) -> Iterator[None]:
    """In here fusible functions run compiled, or where it is not wanted as they are written."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)
