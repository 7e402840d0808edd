"""The sampling settings are fields of SamplingConfig: signatures and docstrings that repeat them must agree with it."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Literal, get_args, get_origin, get_type_hints

import pytest

from emage import Emage
from emage.config import SamplingConfig
from emage.methods.sampling import NAMES, SamplingArguments, sampling_arguments, sampling_settings
from emage.utils.errors import InputError

EXPLICIT = [Emage.generate, Emage.stream, Emage.inpaint]
TYPES = {item.name: item.type | None for item in fields(SamplingConfig)}


@pytest.mark.parametrize("method", EXPLICIT)
def test_signatures_have_every_setting_with_its_type_and_none_as_default(method: Callable):
    parameters = inspect.signature(method).parameters
    found = {name: parameter for name, parameter in parameters.items() if name in NAMES}
    assert list(found) == list(NAMES)
    assert {name: parameter.annotation for name, parameter in found.items()} == TYPES
    assert all(parameter.default is None and parameter.kind is parameter.KEYWORD_ONLY for parameter in found.values())


def test_the_typed_dict_has_every_setting_with_its_type():
    assert get_type_hints(SamplingArguments) == TYPES
    assert list(SamplingArguments.__annotations__) == list(NAMES)


def documented(method: Callable) -> dict[str, str]:
    """The lines of a docstring that describe sampling settings."""
    lines = (line.strip().partition(": ") for line in inspect.getdoc(method).splitlines())
    return {name: text for name, _, text in lines if name in NAMES}


@pytest.mark.parametrize("method", EXPLICIT)
def test_docstrings_describe_every_setting_alike_and_name_its_choices(method: Callable):
    lines = documented(method)
    assert list(lines) == list(NAMES) and lines == documented(Emage.generate)
    for item in fields(SamplingConfig):
        if get_origin(item.type) is Literal:
            assert all(choice in lines[item.name] for choice in get_args(item.type))


def test_none_is_the_checkpoints_own_setting():
    own = SamplingConfig(steps=5, temperature=0.5)
    assert sampling_settings(own, {"steps": None, "top_k": 3}, 64) == SamplingConfig(5, temperature=0.5, top_k=3)


def test_arguments_of_a_call_are_picked_by_name_and_unknown_ones_are_rejected():
    call = dict.fromkeys(NAMES) | {"self": 1, "prompt": "a cat", "unknown": {"stepz": 3}}
    with pytest.raises(InputError, match=r"unknown sampling setting 'stepz'; did you mean steps\?"):
        sampling_settings(SamplingConfig(), sampling_arguments(call), 64)
