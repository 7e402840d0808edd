"""`PRESET key=value ...` -> a frozen config dataclass, through OmegaConf; and a config as YAML and back.

A mistake on a command line is an InputError of one line, with the nearest name if something is mistyped. A value of a
command line may refer to another key (${KEY}) or to an environment variable (${oc.env:NAME}); one of a file may not, as
the file may be a stranger's. The code here does not depend on the fields of any config.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emage.config.fields import (
    check,
    describe_rejection,
    expand_home,
    leaves,
    nearest,
    nearest_key,
    problems,
    sections,
    shown_value,
)
from emage.config.help_text import explain, print_help, usage
from emage.config.presets import PRESETS, presets
from emage.utils.errors import InputError, first_line
from emage.utils.redact import redact_settings
from emage.utils.untrusted import plain_data

Config = TypeVar("Config")


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
        print_help(explain(program, topic[0]) if topic else usage(program, command, words or {}))
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
            merged = OmegaConf.merge(merged, _override(program, value))
        except (OmegaConfBaseException, OverflowError) as error:  # OverflowError: 400 digits for a float
            key, text = value.split("=", 1)
            raise InputError(override_error(program, error, key, text)) from None
    try:
        if missing := sorted(OmegaConf.missing_keys(merged)):
            raise InputError(f"{missing[0]} is required: add {missing[0]}=... (--help lists every key)")
        config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    except OmegaConfBaseException as error:  # an interpolation, ${KEY}, of a key that does not exist
        raise InputError(f"{error.full_key}: {first_line(error)}") from None
    groups = tuple(f"{key}." for key in given)  # optim={steps: 5} sets optim.steps
    from_preset = [key for key in presets(program)[preset] if not f"{key}.".startswith(groups)] if preset else []
    check(config, preset=preset or "", preset_keys=from_preset)
    return expand_home(config)


def to_yaml(config: Any, show_secrets: bool = True) -> str:
    """Return a config as YAML text, in the order of its fields.

    Args:
        config: Any config of this package.
        show_secrets: False replaces passwords and keys in addresses, for texts that are shown or recorded.

    Examples:
        ```python
        print(config.to_yaml(config.preset(config.ServeConfig, "demo", checkpoint="demo")))
        ```
    """
    values = OmegaConf.to_container(OmegaConf.structured(config))
    return OmegaConf.to_yaml(OmegaConf.create(values if show_secrets else redact_settings(values)))


def from_yaml(program: type[Config], text: str) -> Config:
    """Return the config that `to_yaml` wrote, checked as `parse` checks it.

    Args:
        program: The config class.
        text: The YAML text; keys that are left out get their defaults.

    Raises:
        InputError: The text is not plain YAML, refers to another value (${...}), has an unknown key, or a value that
            its field does not allow.

    Examples:
        ```python
        settings = config.from_yaml(config.CheckpointConfig, Path("model/config.yaml").read_text())
        ```
    """
    try:
        values = plain_data.parse_yaml(text)
    except ValueError as error:
        raise InputError(f"not a {program.__name__}: {error}") from None
    return from_values(program, values)


def from_values(program: type[Config], values: Any) -> Config:
    """Return the config of values that were read from a file. Raises InputError as `from_yaml` does.

    Args:
        program: The config class.
        values: Plain values (emage.utils.untrusted.plain_data), by the names of the fields.
    """
    try:
        if not isinstance(values, dict):
            raise ValueError("it has no keys")
        plain_data.refuse_references(values)  # OmegaConf would look up ${oc.env:NAME}: a variable of this machine
        config: Config = OmegaConf.to_object(OmegaConf.merge(_writable(program), values))  # type: ignore[assignment]
    except (OmegaConfBaseException, OverflowError, ValueError) as error:
        raise InputError(f"not a {program.__name__}: {first_line(error)[:300]}") from None
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
    config: Config = OmegaConf.to_object(OmegaConf.merge(_writable(program), _preset(program, name), values))  # type: ignore[assignment]
    return expand_home(config)


def override_error(program: type, error: Exception, key: str, value: Any) -> str:
    """Return one line on a value that OmegaConf rejects.

    Args:
        program: The config class.
        error: OmegaConf's error.
        key: The dotted key of the value.
        value: The value; a text is read as YAML, as on the command line.
    """
    leaf = leaves(program).get(key)
    if leaf is None:  # a group, or an entry of an open dict
        return f"{key}: {shown_value(first_line(error))}"
    if "is not a TupleConfig" in str(error) and value:  # a list without its brackets
        return f"{key}: this is a list; write it as [{shown_value(value)}]"
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


def _override(program: type, value: str) -> Any:
    """Return one key=value as a config, with the value read as YAML ([a, b], null, 1e-3, true).

    Texts, and those of a list, stay as they were typed: `no`, the code of Norwegian, is false in YAML, and 007 is 7.
    """
    try:
        override = OmegaConf.from_dotlist([value])
    except yaml.YAMLError as error:
        raise InputError(f"{value} is not a YAML value: {first_line(error)}") from None
    key, _, text = value.partition("=")
    field = leaves(program).get(key)
    if field and field.type in (str, str | None, tuple[str, ...]):
        as_yaml: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={text}"]), resolve=False)
        typed = yaml.load(text, yaml.BaseLoader)  # nosec B506 # makes only texts, lists and dicts
        OmegaConf.update(override, key, _as_typed(as_yaml["value"], typed))
    return override


def _as_typed(value: Any, typed: Any) -> Any:
    """Return a value of YAML with the texts in `typed`, the same without types, for its numbers and booleans."""
    if isinstance(value, list):
        return [_as_typed(*pair) for pair in zip(value, typed, strict=True)]
    return typed if isinstance(value, bool | int | float) else value


def _check_key(program: type, key: str) -> None:
    """Raise InputError if `key` (dotted) is not a field of the program, naming the nearest one."""
    found = leaves(program)
    known = [*found, *(section.key for section in sections(program) if section.key)]
    in_open_dict = any(leaf.default == {} and key.startswith(f"{name}.") for name, leaf in found.items())
    if key not in known and not in_open_dict:
        raise InputError(f"unknown key {key!r}{nearest_key(key, known)} (--help lists every key)")
