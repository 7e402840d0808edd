"""The home folder in path settings: a shell does not expand the `~` of `key=~/folder`."""

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any, TypeVar

from emage.config.fields.declaration import described

Config = TypeVar("Config")


def expand_home(config: Config) -> Config:
    """Return the config with `~` and `~user` at the start of its path settings replaced by the home folder."""
    changes: dict[str, Any] = {}
    for item in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, item.name)
        if is_dataclass(value):
            changes[item.name] = expand_home(value)
        elif described(item).is_path:
            changes[item.name] = _expanded(value)
    return dataclasses.replace(config, **changes)  # type: ignore[type-var]


def _expanded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _expanded(entry) for name, entry in value.items()}
    if isinstance(value, tuple | list):
        return tuple(map(_expanded, value))
    return os.path.expanduser(value) if isinstance(value, str) else value
