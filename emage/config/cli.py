"""`PRESET key=value ...` -> a frozen config dataclass, through OmegaConf; and a config as YAML and back.

A mistake on a command line is an InputError of one line, with the nearest name if something is mistyped. The code here
does not depend on the fields of any config.
"""

import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emage.config.fields import (
    Leaf,
    Section,
    check,
    choices,
    describe_allowed,
    describe_rejection,
    first_paragraph,
    leaves,
    nearest,
    problems,
    sections,
)
from emage.config.presets import PRESETS, SUMMARIES, presets
from emage.utils.errors import InputError

Config = TypeVar("Config")

_MAX_WIDTH = 110  # characters of a line, even if the terminal is wider
_SECOND_COLUMN = 38  # character at which it starts


def parse(
    program: type[Config], argv: Sequence[str], command: str = "", words: Mapping[str, str] | None = None
) -> Config:
    """Read `PRESET key=value ...` into a checked, frozen config. A preset is optional; keys override it.

    Args:
        program: The config class.
        argv: The arguments after the program's name. With -h or --help the help is printed and the program ends with 0.
        command: How the program is called, for the help: "emage train"; by default, the script's name.
        words: Positional arguments that the program itself reads, with their meaning, for the help.

    Raises:
        InputError: An unknown preset or key (with the nearest name), a value that its field does not allow, a required
            key that is missing, or a broken rule across keys.

    Examples:
        ```python
        settings = config.parse(config.TrainConfig, ["demo", "data.path=tokens", "run.output=out"])
        ```
    """
    if asked := [i for i, word in enumerate(argv) if word in ("-h", "--help")]:
        topic = [word.partition("=")[0] for word in argv[asked[0] + 1 : asked[0] + 2] if word not in presets(program)]
        print(explain(program, topic[0]) if topic else usage(program, command, words or {}))
        sys.exit(0)
    values = list(argv)
    preset = values.pop(0) if values and "=" not in values[0] else None
    if stray := [v for v in values if "=" not in v]:
        raise InputError(f"{stray[0]!r} is not key=value; the preset comes first and there is only one")
    given = dict(value.split("=", 1) for value in values)
    for key in given:
        _check_key(program, key)
    merged = OmegaConf.merge(_writable(program), _preset(program, preset))
    for value in values:
        try:
            merged = OmegaConf.merge(merged, _override(value))
        except OmegaConfBaseException as error:
            key, text = value.split("=", 1)
            raise InputError(override_error(program, error, key, text)) from None
    try:
        if missing := sorted(OmegaConf.missing_keys(merged)):
            raise InputError(f"{missing[0]} is required: add {missing[0]}=... (--help lists every key)")
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:  # an interpolation, ${KEY}, of a key that does not exist
        raise InputError(f"{error.full_key}: {str(error).splitlines()[0]}") from None
    groups = tuple(f"{key}." for key in given)  # optim={steps: 5} sets optim.steps
    from_preset = [key for key in presets(program)[preset] if not f"{key}.".startswith(groups)] if preset else []
    check(config, preset=preset or "", preset_keys=from_preset)
    return config


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
    raise InputError(f"unknown key {key!r}{nearest(key, [*found, *by_key])} (--help lists every key)")


def format_value(value: Any) -> str:
    """Return a value as it is written on a command line."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(format_value, value))}]"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if value == MISSING:
        return "(required)"
    return str(value) if value != "" else "''"


def to_yaml(config: Any) -> str:
    """Return a config as YAML text, in the order of its fields.

    Args:
        config: Any config of this package.

    Examples:
        ```python
        print(config.to_yaml(config.preset(config.ServeConfig, "demo", checkpoint="demo")))
        ```
    """
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(program: type[Config], text: str) -> Config:
    """Return the config that `to_yaml` wrote, checked as `parse` checks it.

    Args:
        program: The config class.
        text: The YAML text; keys that are left out get their defaults.

    Raises:
        InputError: The text is not YAML, has an unknown key, or a value that its field does not allow.

    Examples:
        ```python
        settings = config.from_yaml(config.CheckpointConfig, Path("model/config.yaml").read_text())
        ```
    """
    try:
        config: Config = OmegaConf.to_object(OmegaConf.merge(_writable(program), OmegaConf.create(text)))  # type: ignore[assignment]
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(f"not a {program.__name__}: {str(error).splitlines()[0]}") from None
    if broken := next(problems(config), None):
        raise InputError(f"not a {program.__name__}: {broken}")
    return config


def preset(program: type[Config], name: str | None, **values: Any) -> Config:
    """Return the config of a named preset with some of its values replaced: `parse` for Python code.

    Args:
        program: The config class.
        name: The preset's name; None: the defaults.
        values: Fields to replace; a group is a dict.

    Raises:
        InputError: An unknown preset.

    Examples:
        ```python
        settings = config.preset(config.ServeConfig, "demo", checkpoint="demo", port=8001)
        ```
    """
    return OmegaConf.to_object(OmegaConf.merge(_writable(program), _preset(program, name), values))  # type: ignore[return-value]


def override_error(program: type, error: OmegaConfBaseException, key: str, value: Any) -> str:
    """Return one line on a value that OmegaConf rejects.

    Args:
        program: The config class.
        error: OmegaConf's error.
        key: The dotted key of the value.
        value: The value; a text is read as YAML, as on the command line.
    """
    leaf = leaves(program).get(key)
    if leaf is None:  # a group, or an entry of an open dict
        return f"{key}: {str(error).splitlines()[0]}"
    if "is not a TupleConfig" in str(error) and value:  # a list without its brackets
        return f"{key}: this is a list; write it as [{value}]"
    if isinstance(value, str) and value.startswith("["):
        value = yaml.safe_load(value)
    return describe_rejection(leaf, value)


def _preset(program: type, name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    known = list(presets(program))
    if name not in known:
        raise InputError(f"unknown preset {name!r}{nearest(name, known)} (presets: {', '.join(known)})")
    return PRESETS[name][program.__name__]


def _writable(program: type) -> Any:
    """Return a structured config that merge can fill: OmegaConf makes frozen dataclasses read-only, at every level."""
    config = OmegaConf.structured(program)
    nodes = [config]
    while nodes:
        node = nodes.pop()
        OmegaConf.set_readonly(node, False)
        nodes += [node._get_node(key) for key in node if OmegaConf.is_dict(node._get_node(key))]
    return config


def _override(value: str) -> Any:
    """Return one key=value as a config, with the value read as YAML ([a, b], null, 1e-3, true)."""
    try:
        return OmegaConf.from_dotlist([value])
    except yaml.YAMLError as error:
        raise InputError(f"{value} is not a YAML value: {str(error).splitlines()[0]}") from None


def _check_key(program: type, key: str) -> None:
    """Raise InputError if `key` (dotted) is not a field of the program, naming the nearest one."""
    found = leaves(program)
    known = [*found, *(section.key for section in sections(program) if section.key)]
    in_open_dict = any(leaf.default == {} and key.startswith(f"{name}.") for name, leaf in found.items())
    if key not in known and not in_open_dict:
        raise InputError(f"unknown key {key!r}{nearest(key, known)} (--help lists every key)")


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
