"""JSON and YAML of strangers as plain values: nothing is resolved, called or repeated, and sizes are bounded.

    read_text(path)         the text of a file
    read_json(path)         the value in a JSON file
    parse_json(text)        dicts with text keys, lists, texts, numbers, booleans and None
    parse_yaml(text)        the same; aliases, tags and dates are refused
    refuse_references(v)    ${...}, which OmegaConf would replace, by an environment variable for example
    select(value, shape)    the known keys of a value, whose types must be right

All of them raise ValueError, with one line.
"""

import json
import os
import stat
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from emage.utils.errors import one_line

MAX_BYTES = 1_000_000  # of a file; manifests and settings have a few thousand
MAX_DEPTH = 50
PLAIN = (str, int, float, bool, type(None))


@dataclass(frozen=True)
class Each:
    """The shape of a dict with any keys, whose values all have one shape."""

    value: Any


def read_text(path: str | Path, max_bytes: int = MAX_BYTES) -> str:
    """Return the text of a regular file of at most `max_bytes`. Raises ValueError, and OSError if it cannot be read."""
    with open(path, "rb", opener=_open_regular) as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None


def read_json(path: str | Path, max_bytes: int = MAX_BYTES) -> Any:
    """Return the value in a JSON file. Raises the errors of `read_text` and `parse_json`."""
    return parse_json(read_text(path, max_bytes))


def parse_json(text: str) -> Any:
    """Return the value of a JSON text. Raises ValueError."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON: {one_line(error)}") from None
    _check_plain(value)
    return value


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text. Raises ValueError."""
    try:
        value = yaml.load(text, _PlainLoader)  # nosec B506 # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f"not plain YAML: {one_line(error)}") from None
    _check_plain(value)
    return value


def refuse_references(value: Any) -> None:
    """Raise ValueError if a text in a plain value has ${...}, by which a stranger could read this machine's secrets."""
    for item, _ in _walk(value):
        for text in item if isinstance(item, dict) else [item]:
            if isinstance(text, str) and "${" in text:
                raise ValueError(
                    f"{text[:60]!r} holds ${{...}}, and references in files are not resolved: write the value"
                )


def select(value: Any, shape: Any, name: str = "") -> Any:
    """Return the part of a plain value that a shape describes. Raises ValueError for a value of another type.

    Args:
        value: The value.
        shape: A type or a tuple of types; [shape] for a list; {key: shape} for a dict, whose other keys are left out
            and whose keys may be missing; `Each(shape)` for a dict with any keys; None for any plain value.
        name: Of the value, for messages: data.rows.
    """
    if shape is None:
        return value
    if isinstance(shape, dict) and isinstance(value, dict):
        return {key: select(value[key], shape[key], f"{name}.{key}".lstrip(".")) for key in shape if key in value}
    if isinstance(shape, Each) and isinstance(value, dict):
        return {key: select(item, shape.value, f"{name}.{key[:50]}".lstrip(".")) for key, item in value.items()}
    if isinstance(shape, list) and isinstance(value, list):
        return [select(item, shape[0], f"{name}[{i}]") for i, item in enumerate(value)]
    types: tuple[type, ...] = shape if isinstance(shape, tuple) else (shape,) if isinstance(shape, type) else ()
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise ValueError(f"{name or 'it'} is {_describe(value)}, not {_describe_shape(shape)}")
    return value


# --- Details ----------------------------------------------------------------------------------------------------------


class _PlainLoader(yaml.SafeLoader):
    """YAML without aliases (which a file of a few lines can make huge), keys that are there twice, and dates."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # copied: a date is a text
        first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        counts = Counter(str(key.value) for key, _ in node.value)
        if twice := [key for key, count in counts.items() if count > 1]:
            raise ValueError(f"the key {twice[0][:50]!r} is there twice")
        return super().construct_mapping(node, deep)


def _open_regular(path: str, flags: int) -> int:
    """Open a file, but nothing that blocks or has no end, such as a pipe or a device."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError("it is not a regular file")
    return os.open(path, flags)


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """Yield a value and all values in it, each with its depth, a group or list before what is in it."""
    left = [(value, 0)]
    while left:
        item, depth = left.pop()
        yield item, depth
        children = item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        left += [(child, depth + 1) for child in children]


def _check_plain(value: Any) -> None:
    for item, depth in _walk(value):
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        for key in item if isinstance(item, dict) else ():
            if not isinstance(key, str):
                raise ValueError(f"the key {key!r} is no text")
        if not isinstance(item, (*PLAIN, dict, list)):
            raise ValueError(f"a value of the type {type(item).__name__}")


def _describe(value: Any) -> str:
    if isinstance(value, dict | list):
        return "a list" if isinstance(value, list) else "a group of keys"
    return f"{value!r:.60}"


def _describe_shape(shape: Any) -> str:
    if isinstance(shape, dict | Each):
        return "a group of keys"
    if isinstance(shape, list):
        return "a list"
    names = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
    return " or ".join(names[kind] for kind in (shape if isinstance(shape, tuple) else (shape,)) if kind in names)
