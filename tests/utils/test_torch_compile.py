"""Choice of the functions that are compiled. `make faults` and `make chaos` test that their results are correct."""

from collections.abc import Callable

import pytest
import torch

from emage.utils.torch_compile import compilable, compiled


def test_a_function_is_compiled_once_and_only_inside_the_context(monkeypatch: pytest.MonkeyPatch):
    names: list[str] = []

    def compiler(function: Callable[[int], int]) -> Callable[[int], int]:
        names.append(function.__name__)
        return lambda number: 100 + function(number)

    monkeypatch.setattr(torch, "compile", compiler)

    @compilable
    def double(number: int) -> int:
        return 2 * number

    assert double(1) == 2 and not names
    with compiled():
        assert double(1) == double(1) == 102
        with compiled(False):
            assert double(1) == 2
    assert double(1) == 2 and names == ["double"]
