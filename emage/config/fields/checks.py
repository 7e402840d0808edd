"""The check of a config, or of arguments that are settings, against the descriptions of its fields."""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from numbers import Number
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from omegaconf import MISSING

from emage.config.fields.declaration import MAX_INTEGER, Leaf, Setting, described, leaves
from emage.config.fields.suggestions import nearest
from emage.config.fields.wording import describe_rejection, without_none
from emage.utils.errors import InputError


def check(config: Any, *, prefix: str = "", preset: str = "", preset_keys: Sequence[str] = ()) -> None:
    """Raise InputError, in one line, for the first value that its field does not allow, or the first broken rule.

    Args:
        config: A config dataclass.
        prefix: Put before every key in the message, for example "more.cc12m.".
        preset: The preset that the values of `preset_keys` come from; the message names it if one of them is wrong.
        preset_keys: Dotted keys.
    """
    for message in problems(config, prefix):
        named = [key for key in preset_keys if re.search(rf"(?<![\w.]){re.escape(key)}=", message)]
        origin = f"; preset {preset} sets {' and '.join(named)}" if named else ""
        raise InputError(message + origin)


def check_arguments(config: type, **values: Any) -> None:
    """Raise InputError, in one line, for the first value that the field of this name of a config does not allow.

    For functions whose arguments are settings of a program. Unlike a config, which is written to disk, they may be
    NumPy numbers.
    """
    known = leaves(config)
    for name, value in values.items():
        to_python = getattr(value, "item", None) if isinstance(value, Number) else None
        for message in _value_problems(known[name], to_python() if to_python else value):
            raise InputError(message)


def problems(config: Any, prefix: str = "") -> Iterator[str]:
    """Yield one message for every value that its field does not allow and every broken rule across fields."""
    found = False
    for item in dataclasses.fields(config):
        value, key = getattr(config, item.name), prefix + item.name
        if is_dataclass(value):
            messages = problems(value, f"{key}.")
        else:
            messages = _value_problems(Leaf(key, item.type, None, described(item)), value)
        for message in messages:
            found = True
            yield message
    if not found and hasattr(config, "problems"):  # these rules assume that each value is allowed by its field
        yield from config.problems(prefix)


def _value_problems(leaf: Leaf, value: Any) -> Iterator[str]:
    if isinstance(value, str) and value == MISSING:
        yield f"{leaf.key} is required: add {leaf.key}=... (--help lists every key)"
    elif not _accepts(leaf.type, leaf.setting, value):
        yield describe_rejection(leaf, value)
    elif isinstance(value, Mapping) and leaf.setting.entries is not None:
        known = leaves(leaf.setting.entries)
        for name, entry in value.items():
            if name not in known:
                yield f"unknown key {f'{leaf.key}.{name}'!r}{nearest(str(name), list(known))}"
            else:
                yield from _value_problems(known[name]._replace(key=f"{leaf.key}.{name}"), entry)


def _accepts(kind: Any, allowed: Setting, value: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return value is None or _accepts(without_none(kind), allowed, value)
    if get_origin(kind) is tuple:
        return _accepts_list(get_args(kind), allowed, value)
    if get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole and abs(value) <= MAX_INTEGER and _in_range(allowed, value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _in_range(allowed, value)
    if kind is str:
        is_url = allowed.is_folder and "://" in str(value)
        return isinstance(value, str) and value in (allowed.choices or (value,)) and not is_url
    return isinstance(value, Mapping)


def _accepts_list(members: tuple[Any, ...], allowed: Setting, value: Any) -> bool:
    if not isinstance(value, tuple | list) or (allowed.not_empty and not value):
        return False
    if members[-1] is not Ellipsis and len(value) != len(members):
        return False
    return all(_accepts(members[0], allowed, item) for item in value)


def _in_range(allowed: Setting, value: float) -> bool:
    """Return whether a number is within the field's bounds; NaN and infinities never are."""
    return (
        (isinstance(value, int) or math.isfinite(value))
        and (allowed.minimum is None or value >= allowed.minimum)
        and (allowed.maximum is None or value <= allowed.maximum)
        and (allowed.above is None or value > allowed.above)
    )
