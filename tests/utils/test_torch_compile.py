"""Which functions are compiled, and when. That compiled ones are right is tested in `make faults` and `make chaos`."""

from collections.abc import Callable

import pytest
import torch

from emage.utils.torch_compile import fused, fusible


def test_a_function_is_compiled_once_and_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch):
    compiled: list[str] = []

    def compiler(function: Callable[[int], int]) -> Callable[[int], int]:
        compiled.append(function.__name__)
        return lambda number: 100 + function(number)

    monkeypatch.setattr(torch, "compile", compiler)

    @fusible
    def double(number: int) -> int:
        return 2 * number

    assert double(1) == 2 and not compiled
    with fused():
        assert double(1) == double(1) == 102
        with fused(False):
            assert double(1) == 2
    assert double(1) == 2 and compiled == ["double"]
