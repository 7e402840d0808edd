"""Messages about settings: what a field allows, in words, and what is wrong with a value."""

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from emage.config.fields.declaration import MAX_INTEGER, MAX_SEED, Leaf, Setting, leaves
from emage.config.fields.suggestions import nearest

_MAX_SHOWN = 200  # characters of a wrong value in a message


def describe_rejection(leaf: Leaf, value: Any) -> str:
    """Return the message for a value that a field does not allow: key, value, what is allowed, unit."""
    shown = f"[{', '.join(map(str, value))}]" if isinstance(value, tuple | list) else value
    close = ""
    if isinstance(value, tuple | list) and (names := choices(leaf)):
        wrong = [str(item) for item in value if str(item) not in names]
        shown, close = wrong[0] if wrong else shown, nearest(wrong[0], names) if wrong else ""
    elif isinstance(value, str):
        close = nearest(value, choices(leaf))
    is_too_long = isinstance(value, int) and abs(value) > MAX_INTEGER and leaf.setting.maximum is None
    limit = " of less than 20 digits" if is_too_long else ""
    return f"{leaf.key}={shown_value(shown)}: must be {describe_allowed(leaf)}{limit}{close}"


def choices(leaf: Leaf) -> tuple[str, ...]:
    """Return the values, as text, that a field or an entry of its list can have; () if it is not a choice."""
    kind = without_none(leaf.type)
    if get_origin(kind) is tuple:
        kind = get_args(kind)[0]
    return leaf.setting.choices or (tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ())


def describe_allowed(leaf: Leaf) -> str:
    """Return what a field can hold, in words: "a whole number of at least 1 (steps)", "one of argmax, sample"."""
    kind = without_none(leaf.type)
    text = _in_words(kind, leaf.setting)
    if leaf.setting.unit:
        text += f" ({leaf.setting.unit})"
    return text if kind is leaf.type else f"{text}, or null"


def format_bound(value: float) -> str:
    """Return a bound as text: 1,048,576 or 2^63 - 1 or 1e-06."""
    if value == MAX_SEED:
        return "2^63 - 1"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def shown_value(value: Any) -> str:
    """Return a value as a piece of one line."""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(value))
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."


def without_none(kind: Any) -> Any:
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
