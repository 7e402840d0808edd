"""How a config class declares its fields, and what it declared: `setting`, `group`, `leaves`, `sections`."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass
from typing import Any, NamedTuple

MAX_INTEGER = MAX_SEED = 2**63 - 1  # what PyTorch, parquet and databases hold
_KEY = "setting"  # in a field's metadata


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
    is_path: bool = False  # of a file or folder, or what may be one: `~` is expanded
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
    is_path: bool = False,
    entries: type | None = None,
    source: str = "ours",
) -> Any:
    """Return a dataclass field with a description. The arguments are the attributes of `Setting`.

    Args:
        default: The default value; MISSING for a required key; the type `dict` for an open dict, empty by default.
    """
    is_path = is_path or is_folder
    found = Setting(meaning, unit, minimum, maximum, above, choices, not_empty, is_folder, is_path, entries, source)
    if default is dict:
        return field(default_factory=dict, metadata={_KEY: found})
    return field(default=default, metadata={_KEY: found})


def group(config: type) -> Any:
    """Return a dataclass field that holds another config, by default with that one's defaults."""
    return field(default_factory=config)


def described(item: dataclasses.Field) -> Setting:
    """Return the description of a dataclass field, an empty one if it was not made by `setting`."""
    return item.metadata.get(_KEY, _NOT_DESCRIBED)


def sections(program: type, prefix: str = "") -> Iterator[Section]:
    """Yield the sections of a config class: its own keys first, then those of every group."""
    found, groups = [], []
    for item in dataclasses.fields(program):
        if is_dataclass(item.default_factory):
            groups.append((item.default_factory, f"{prefix}{item.name}."))
        else:
            default = {} if item.default_factory is dict else item.default
            found.append(Leaf(prefix + item.name, item.type, default, described(item)))
    yield Section(prefix.rstrip("."), first_paragraph(program), found)
    for config, name in groups:
        yield from sections(config, name)  # type: ignore[arg-type]


def leaves(program: type) -> dict[str, Leaf]:
    """Return every key of a config class, dotted, with its description."""
    return {leaf.key: leaf for section in sections(program) for leaf in section.leaves}


def first_paragraph(program: type) -> str:
    """Return the first paragraph of a config's docstring, as one line."""
    return " ".join((program.__doc__ or "").strip().split("\n\n")[0].split())
