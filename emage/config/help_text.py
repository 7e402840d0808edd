"""The text of `--help` and of `--help KEY`, made from the descriptions of the settings."""

import os
import shutil
import sys
import textwrap
from collections.abc import Mapping
from typing import Any

from omegaconf import MISSING

from emage.config.fields import Leaf, Section, choices, describe_allowed, first_paragraph, leaves, nearest_key, sections
from emage.config.presets import SUMMARIES, presets
from emage.utils.errors import InputError

_MAX_WIDTH = 110  # characters of a line, even if the terminal is wider
_SECOND_COLUMN = 38  # character at which it starts


def print_help(text: str) -> None:
    """Print a text; end quietly if its reader leaves before the end, as `emage --help | head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again at its end


def usage(program: type, command: str = "", words: Mapping[str, str] | None = None) -> str:
    """Return the text of --help.

    Args:
        program: The config class.
        command: How the program is called: "emage train"; by default, the script's name.
        words: Positional arguments that the program itself reads, with their meaning.
    """
    words, named, command = words or {}, presets(program), command or f"python {sys.argv[0]}"
    parts = [command, *words, *(["[PRESET]"] if named else []), "key=value ..."]
    lines = [*_wrapped(first_paragraph(program)), "", f"usage: {' '.join(parts)}"]
    lines += [f"       {command} --help KEY    one key or section: range, unit, value in each preset, source"]
    if words:
        lines += ["", *(line for word, meaning in words.items() for line in _row(word, meaning))]
    if named:
        lines += ["", "presets:", *(line for name in named for line in _row(name, SUMMARIES.get(name, "")))]
    for section in sections(program):
        lines += ["", *_section(section)]
    return "\n".join(lines)


def explain(program: type, key: str) -> str:
    """Return the text of --help KEY. Raise InputError, with the nearest name, if there is no such key or section."""
    found = leaves(program)
    if key in found:
        return _explain_leaf(program, found[key])
    by_key = {section.key: section for section in sections(program) if section.key}
    if key in by_key:
        return "\n".join(_section(by_key[key]))
    head = next((name for name in found if key.startswith(f"{name}.") and found[name].default == {}), None)
    entries = found[head].setting.entries if head else None
    if head and entries and (entry := leaves(entries).get(key.removeprefix(f"{head}."))):
        return _explain_leaf(program, entry._replace(key=key))
    raise InputError(f"unknown key {key!r}{nearest_key(key, [*found, *by_key])} (--help lists every key)")


def format_value(value: Any) -> str:
    """Return a value as it is written on a command line."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if value == MISSING:
        return "(required)"
    return str(value) if value != "" else "''"


def _section(section: Section) -> list[str]:
    title = f"{section.key}: {section.summary}" if section.key else "settings:"
    rows = [line for leaf in section.leaves for line in _row(_with_default(leaf), _meaning(leaf))]
    return [*_wrapped(title), *rows]


def _meaning(leaf: Leaf) -> str:
    """Return the sentence, with the choices or with a unit that it does not name."""
    meaning, unit = leaf.setting.meaning, leaf.setting.unit
    detail = ", ".join(choices(leaf)) or ("" if unit.partition(" ")[0].lower() in meaning.lower() else unit)
    if leaf.default == choices(leaf):  # a list of all of them: they are shown as the default
        return meaning
    return f"{meaning} [{detail}]" if detail else meaning


def _explain_leaf(program: type, leaf: Leaf) -> str:
    in_presets = {name: values[leaf.key] for name, values in presets(program).items() if leaf.key in values}
    rows = {
        "allowed": describe_allowed(leaf),
        "default": format_value(leaf.default),
        "presets": ", ".join(f"{name} {format_value(value)}" for name, value in in_presets.items()),
        "source": leaf.setting.source,
    }
    lines = [leaf.key, "", *_wrapped(leaf.setting.meaning), ""]
    for name, text in rows.items():
        if text:
            lines += textwrap.wrap(text, _width(), initial_indent=f"{name:<9}", subsequent_indent=" " * 9)
    return "\n".join(lines)


def _with_default(leaf: Leaf) -> str:
    if leaf.default == {}:
        return f"{leaf.key}.KEY=VALUE"
    return f"{leaf.key}={format_value(leaf.default)}"


def _row(left: str, right: str) -> list[str]:
    """Return the lines of two columns; left text that is too long has a line of its own."""
    lines = textwrap.wrap(right, max(20, _width() - _SECOND_COLUMN), break_long_words=False) or [""]
    indent = " " * _SECOND_COLUMN
    if len(left) > _SECOND_COLUMN - 4:
        first = textwrap.wrap(left, _width() - 2, initial_indent="  ", subsequent_indent="      ")
        return [*first, *(indent + line for line in lines)]
    return [f"  {left:<{_SECOND_COLUMN - 2}}{lines[0]}".rstrip(), *(indent + line for line in lines[1:])]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _width())


def _width() -> int:
    return min(shutil.get_terminal_size((_MAX_WIDTH, 24)).columns, _MAX_WIDTH)
