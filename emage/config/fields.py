"""Descriptions of settings, as part of their dataclass fields, and the check of a config against them.

    steps: int = setting(16, "Decoding steps per image.", unit="steps", minimum=1, source="paper, Sec. 4.6")

A config is a frozen dataclass whose fields are made by `setting` (a value) or `group` (a config inside a config).
`--help`, docs/configuration.md and every message about a bad value are made from these descriptions. A rule across
fields is a method `problems(self, prefix)` of the class, which yields one message per broken rule.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from numbers import Number
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from omegaconf import MISSING

from emage.utils.errors import InputError

MAX_SEED = 2**63 - 1
_KEY = "setting"  # in a field's metadata
_MAX_SHOWN = 200  # characters of a wrong value in a message


@dataclass(frozen=True)
class Setting:
    """The description of a field, in addition to its name, type and default."""

    meaning: str  # one sentence
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None  # exclusive lower bound
    choices: tuple[str, ...] = ()  # of a text that is not a Literal
    not_empty: bool = False  # a list must have an entry
    is_folder: bool = False  # on a disk: not a URL
    entries: type | None = None  # of an open dict: the config whose fields its keys are
    source: str = "ours"  # of the default: "ours" or "paper, Sec. N"


_NOT_DESCRIBED = Setting("")


class Leaf(NamedTuple):
    """One key of a program's settings."""

    key: str  # dotted
    type: Any
    default: Any  # MISSING if it must be given
    setting: Setting


class Section(NamedTuple):
    """The keys of one config class; `key` is "" for those of the program itself."""

    key: str
    summary: str
    leaves: list[Leaf]


def setting(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: tuple[str, ...] = (),
    not_empty: bool = False,
    is_folder: bool = False,
    entries: type | None = None,
    source: str = "ours",
) -> Any:
    """Return a dataclass field with a description. The arguments are the attributes of `Setting`.

    Args:
        default: The default value; MISSING for a required key; the type `dict` for an open dict, empty by default.
    """
    described = Setting(meaning, unit, minimum, maximum, above, choices, not_empty, is_folder, entries, source)
    if default is dict:
        return field(default_factory=dict, metadata={_KEY: described})
    return field(default=default, metadata={_KEY: described})


def group(config: type) -> Any:
    """Return a dataclass field that holds another config, by default with that one's defaults."""
    return field(default_factory=config)


def sections(program: type, prefix: str = "") -> Iterator[Section]:
    """Yield the sections of a config class: its own keys first, then those of every group."""
    found, groups = [], []
    for item in dataclasses.fields(program):
        if is_dataclass(item.default_factory):
            groups.append((item.default_factory, f"{prefix}{item.name}."))
        else:
            default = {} if item.default_factory is dict else item.default
            described = item.metadata.get(_KEY, _NOT_DESCRIBED)
            found.append(Leaf(prefix + item.name, item.type, default, described))
    yield Section(prefix.rstrip("."), first_paragraph(program), found)
    for config, name in groups:
        yield from sections(config, name)  # type: ignore[arg-type]


def leaves(program: type) -> dict[str, Leaf]:
    """Return every key of a config class, dotted, with its description."""
    return {leaf.key: leaf for section in sections(program) for leaf in section.leaves}


def first_paragraph(program: type) -> str:
    """Return the first paragraph of a config's docstring, as one line."""
    return " ".join((program.__doc__ or "").strip().split("\n\n")[0].split())


def nearest(word: str, words: Sequence[str]) -> str:
    """Return "; did you mean ...?" for a mistyped name, whatever its case, or ""."""
    spelled = {name.lower(): name for name in words}
    close = difflib.get_close_matches(word.lower(), spelled, n=1, cutoff=0.5)
    return f"; did you mean {spelled[close[0]]}?" if close else ""


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
            described = item.metadata.get(_KEY, _NOT_DESCRIBED)
            messages = _value_problems(Leaf(key, item.type, None, described), value)
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


def describe_rejection(leaf: Leaf, value: Any) -> str:
    """Return the message for a value that a field does not allow: key, value, what is allowed, unit."""
    shown = f"[{', '.join(map(str, value))}]" if isinstance(value, tuple | list) else value
    close = ""
    if isinstance(value, tuple | list) and (names := choices(leaf)):
        wrong = [str(item) for item in value if str(item) not in names]
        shown, close = wrong[0] if wrong else shown, nearest(wrong[0], names) if wrong else ""
    elif isinstance(value, str):
        close = nearest(value, choices(leaf))
    return f"{leaf.key}={_shortened(shown)}: must be {describe_allowed(leaf)}{close}"


def choices(leaf: Leaf) -> tuple[str, ...]:
    """Return the values, as text, that a field or an entry of its list can have; () if it is not a choice."""
    kind = _without_none(leaf.type)
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return leaf.setting.choices or (tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ())


def describe_allowed(leaf: Leaf) -> str:
    """Return what a field can hold, in words: "a whole number of at least 1 (steps)", "one of argmax, sample"."""
    kind = _without_none(leaf.type)
    text = _in_words(kind, leaf.setting)
    if leaf.setting.unit:
        text += f" ({leaf.setting.unit})"
    return text if kind is leaf.type else f"{text}, or null"


def format_bound(value: float) -> str:
    """Return a bound as text: 1,048,576 or 2^63 - 1 or 1e-06."""
    if value == MAX_SEED:
        return "2^63 - 1"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _shortened(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def _without_none(kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        (kind,) = (member for member in get_args(kind) if member is not NoneType)
    return kind


def _in_words(kind: Any, described: Setting) -> str:
    if get_origin(kind) is tuple:
        members = get_args(kind)
        if members[-1] is not Ellipsis:
            return f"a list of {len(members)}, each {_in_words(members[0], described)}"
        names = described.choices or (get_args(members[0]) if get_origin(members[0]) is Literal else ())
        what = f"any of {', '.join(map(str, names))}" if names else f"each {_in_words(members[0], described)}"
        return f"a list{' of at least one entry' if described.not_empty else ''}, {what}"
    names = described.choices or (get_args(kind) if get_origin(kind) is Literal else ())
    if names:
        return f"one of {', '.join(map(str, names))}"
    if kind in (int, float):
        return f"a {'whole ' if kind is int else ''}number{_range_in_words(described)}"
    if kind is str:
        return "a folder that every node sees, not a URL" if described.is_folder else "text"
    if described.entries is not None:
        return f"KEY is one of {', '.join(leaves(described.entries))}"
    return "true or false" if kind is bool else "entries KEY=VALUE"


def _range_in_words(described: Setting) -> str:
    low, high, above = described.minimum, described.maximum, described.above
    if low is not None and high is not None:
        return f" from {format_bound(low)} to {format_bound(high)}"
    start = f" of at least {format_bound(low)}" if low is not None else ""
    if above is not None:
        start = f" above {format_bound(above)}"
    return start + (f"{' and' if start else ''} at most {format_bound(high)}" if high is not None else "")


def _accepts(kind: Any, described: Setting, value: Any) -> bool:
    if get_origin(kind) in (Union, UnionType):
        return value is None or _accepts(_without_none(kind), described, value)
    if get_origin(kind) is tuple:
        return _accepts_list(get_args(kind), described, value)
    if get_origin(kind) is Literal:
        return any(value == choice and type(value) is type(choice) for choice in get_args(kind))
    if kind is bool:
        return isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and _in_range(described, value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _in_range(described, value)
    if kind is str:
        is_url = described.is_folder and "://" in str(value)
        return isinstance(value, str) and value in (described.choices or (value,)) and not is_url
    return isinstance(value, Mapping)


def _accepts_list(members: tuple[Any, ...], described: Setting, value: Any) -> bool:
    if not isinstance(value, tuple | list) or (described.not_empty and not value):
        return False
    if members[-1] is not Ellipsis and len(value) != len(members):
        return False
    return all(_accepts(members[0], described, item) for item in value)


def _in_range(described: Setting, value: float) -> bool:
    """Return whether a number is within the field's bounds; NaN and infinities never are."""
    return (
        (isinstance(value, int) or math.isfinite(value))
        and (described.minimum is None or value >= described.minimum)
        and (described.maximum is None or value <= described.maximum)
        and (described.above is None or value > described.above)
    )
