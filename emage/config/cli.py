"""`PRESET key=value ...` -> a frozen config dataclass, through OmegaConf; and a config as YAML and back.

What is wrong with a command line is an InputError of one line, with the nearest name where something is mistyped. Knows
no field of any config.
"""

import difflib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from emage.config.presets import PRESETS
from emage.utils.errors import InputError

Config = TypeVar("Config")


def parse(program: type[Config], argv: Sequence[str]) -> Config:
    """`PRESET key=value ...` -> a frozen `program` config. A preset is optional; values win over it, left to right.

    Prints the help and exits with 0 on -h or --help. Raises InputError for an unknown preset or key (with the nearest
    name), a value of the wrong type, or a required key left out.
    """
    if {"-h", "--help"} & set(argv):
        print(usage(program))
        sys.exit(0)
    values = list(argv)
    given: dict[str, str] = {}
    preset = values.pop(0) if values and "=" not in values[0] else None
    if stray := [v for v in values if "=" not in v]:
        raise InputError(f"{stray[0]!r} is not key=value; the preset comes first and there is only one")
    try:
        overrides = []
        for value in values:
            key, _, text = value.partition("=")
            _check_key(program, key)
            given[key] = text
            overrides.append(_override(key, text))
        config = OmegaConf.merge(_writable(program), _preset(program, preset), *overrides)
        if missing := sorted(OmegaConf.missing_keys(config)):
            raise InputError(f"{missing[0]} is required: add {missing[0]}=... (--help lists every key)")
        return OmegaConf.to_object(config)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None) or "config"
        raise InputError(refusal(error, key, given.get(key))) from None
    except yaml.YAMLError as error:
        raise InputError(f"{value} is no YAML value: {str(error).splitlines()[0]}") from None


def usage(program: type) -> str:
    """What --help prints: the presets this program knows, then every key with its default, as YAML."""
    presets = [name for name, programs in PRESETS.items() if program.__name__ in programs]
    summary = (program.__doc__ or "").strip().splitlines()[0]
    use = f"usage: PRESET key=value ...\npresets: {', '.join(presets)}" if presets else "usage: key=value ..."
    return f"{summary}\n\n{use}\n\n{OmegaConf.to_yaml(OmegaConf.structured(program))}"


def to_yaml(config: Any) -> str:
    """A config as YAML text, in the order of its fields."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


def from_yaml(program: type[Config], text: str) -> Config:
    """The inverse of `to_yaml`. Raises InputError where the text does not describe a `program`."""
    try:
        return OmegaConf.to_object(OmegaConf.merge(_writable(program), OmegaConf.create(text)))  # type: ignore[return-value]
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise InputError(f"not a {program.__name__}: {str(error).splitlines()[0]}") from None


def preset(program: type[Config], name: str | None, **values: Any) -> Config:
    """The `program` config of a named preset, with keyword values (nested dicts) over it. For code, not for people."""
    return OmegaConf.to_object(OmegaConf.merge(_writable(program), _preset(program, name), values))  # type: ignore[return-value]


def nearest(word: str, words: Sequence[str]) -> str:
    """'; did you mean ...?' for a mistyped name, whatever its case, or ''."""
    spelled = {name.lower(): name for name in words}
    close = difflib.get_close_matches(word.lower(), spelled, n=1, cutoff=0.5)
    return f"; did you mean {spelled[close[0]]}?" if close else ""


def refusal(error: OmegaConfBaseException, key: str, value: Any) -> str:
    """One line on a value that a config refuses. A list without its brackets is shown with them."""
    line = str(error).splitlines()[0]
    if value is not None and "is not a TupleConfig" in line:
        line = f"this is a list; write it as [{value}]"
    return f"{key}: {line}"


def _preset(program: type, name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    known = [preset for preset, programs in PRESETS.items() if program.__name__ in programs]
    if name not in known:
        raise InputError(f"unknown preset {name!r}{nearest(name, known)} (presets: {', '.join(known)})")
    return PRESETS[name][program.__name__]


def _writable(program: type) -> Any:
    """A structured config that merge may fill: OmegaConf makes frozen dataclasses read-only, at every level."""
    config = OmegaConf.structured(program)
    nodes = [config]
    while nodes:
        node = nodes.pop()
        OmegaConf.set_readonly(node, False)
        nodes += [node._get_node(key) for key in node if OmegaConf.is_dict(node._get_node(key))]
    return config


@contextmanager
def one_line() -> Iterator[None]:
    """Bad input in here ends the program: with one line, and 2."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def _override(key: str, text: str) -> Any:
    """One key=value, with the value read as YAML ([a, b], null, 1e-3, true)."""
    return OmegaConf.from_dotlist([f"{key}={text}"])


def _check_key(program: type, key: str) -> None:
    """Raises InputError where `key` (dotted) is no field of the program, naming the nearest one."""
    known = list(_keys(program))
    parents = {name for name in known if key.startswith(name + ".")}
    open_ended = any(_is_open(program, name) for name in parents)
    if key not in known and not open_ended:
        raise InputError(f"unknown key {key!r}{nearest(key, known)} (--help lists every key)")


def _keys(program: Any, prefix: str = "") -> Any:
    for item in fields(program):
        yield prefix + item.name
        factory = item.default_factory
        if isinstance(factory, type) and is_dataclass(factory):
            yield from _keys(factory, f"{prefix}{item.name}.")


def _is_open(program: Any, key: str) -> bool:
    """Whether `key` is a free-form dict, whose entries are checked by whoever uses them."""
    head, _, rest = key.partition(".")
    item = next(item for item in fields(program) if item.name == head)
    return item.default_factory is dict if not rest else _is_open(item.default_factory, rest)
