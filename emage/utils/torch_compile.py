"""torch.compile by choice: functions that run eagerly, and compiled inside `with compiled():`.

The owner of a model decides, not its modules: the same network generates compiled and is saved uncompiled.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")
_wanted: ContextVar[bool] = ContextVar("compiled", default=False)


def compilable(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function or method that runs eagerly, or compiled inside `with compiled():` (at the first call)."""

    @functools.cache
    def compiled_function() -> Any:  # created at the first use: loading the compiler takes a second
        # The limit counts the variants (batch 1 or more, with top_k, ...) of all models; beyond it nothing is compiled.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        return torch.compile(function)

    @functools.wraps(function)
    def either_version(*args: P.args, **kwargs: P.kwargs) -> R:
        return (compiled_function() if _wanted.get() and not torch.compiler.is_compiling() else function)(
            *args, **kwargs
        )

    return either_version


@contextmanager
def compiled(wanted: bool = True) -> Iterator[None]:
    """Run compilable functions compiled while the block runs, or eagerly if `wanted` is False."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)
