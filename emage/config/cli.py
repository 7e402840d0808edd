"""`PRESET key=value ...` -> a frozen config dataclass, through OmegaConf; and a config as YAML and back.

A mistake on a command line is an InputError of one line, with the nearest name if something is mistyped. Nothing here
depends on a field of any config.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emage.config import help
from emage.config.fields import check, leaves, nearest, refused
from emage.config.presets import PRESETS, presets
from emage.utils.errors import InputError

Config = TypeVar("Config")


def parse(
    program: type[Config], argv: Sequence[str], command: str = "PROGRAM", words: Mapping[str, str] | None = None
) -> Config:
    """Read `PRESET key=value ...` into a checked, frozen config. A preset is optional; values win over it.

    Args:
        program: The config class.
        argv: The words after the program's name. With -h or --help the help is printed and the program ends with 0.
        command: How the program is called, for the help: "emage train".
        words: The program's own words in front of the keys, with their meaning, for the help.

    Raises:
        InputError: An unknown preset or key (with the nearest name), a value that its field does not allow, a required
            key that is missing, or a broken rule across keys.
    """
    if asked := [i for i, word in enumerate(argv) if word in ("-h", "--help")]:
        topic = argv[asked[0] + 1 : asked[0] + 2]
        print(help.explain(program, topic[0]) if topic else help.usage(program, command, words or {}))
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
    if missing := sorted(OmegaConf.missing_keys(merged)):
        raise InputError(f"{missing[0]} is required: add {missing[0]}=... (--help lists every key)")
    config: Config = OmegaConf.to_object(merged)  # type: ignore[assignment]
    from_preset = [key for key in presets(program)[preset] if key not in given] if preset else []
    check(config, preset=preset or "", preset_keys=from_preset)
    return config


def to_yaml(config: Any) -> str:
    """Return a config as YAML text, in the order of its fields."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(program: type[Config], text: str) -> Config:
    """Return the config that `to_yaml` wrote. Raise InputError if the text does not describe a `program`."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(_writable(program), OmegaConf.create(text)))  # type: ignore[return-value]
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(f"not a {program.__name__}: {str(error).splitlines()[0]}") from None


def preset(program: type[Config], name: str | None, **values: Any) -> Config:
    """Return the `program` config of a named preset, with keyword values (nested dicts) over it. For code."""
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
    return refused(leaf, yaml.safe_load(value) if isinstance(value, str) and value.startswith("[") else value)


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
    known = list(_keys(program))
    parents = {name for name in known if key.startswith(name + ".")}
    open_ended = any(name in leaves(program) for name in parents)
    if key not in known and not open_ended:
        raise InputError(f"unknown key {key!r}{nearest(key, known)} (--help lists every key)")


def _keys(program: Any, prefix: str = "") -> Iterator[str]:
    """Yield every key and every group."""
    for item in fields(program):
        yield prefix + item.name
        if is_dataclass(item.default_factory):
            yield from _keys(item.default_factory, f"{prefix}{item.name}.")
