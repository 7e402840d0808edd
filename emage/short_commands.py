"""Short forms of a command line: `emage ingest FOLDER`, `emage train`.

1. A word without `=` is a preset, if one has that name, whatever files there are: write ./demo for a folder called
   demo. Any other that exists, or looks like a path, sets the command's path.
2. A command without any key=value takes the preset `demo` and folders of its own, so that it runs on any machine.
"""

import os
from collections.abc import Collection, Sequence

from emage.utils.errors import InputError

FIRST_PRESET = "demo"  # for a first model, on any machine


def complete(argv: Sequence[str], presets: Collection[str], path_key: str, defaults: Sequence[str]) -> list[str]:
    """Return a command line in its long form: PRESET key=value ...; one in that form already is returned as it is.

    Args:
        argv: The words of the command line.
        presets: The names of the command's presets.
        path_key: The key that a path sets; "": none.
        defaults: What is added, key=value each, if the command line has no key=value.

    Raises:
        InputError: There are several paths.
    """
    words, values = [word for word in argv if "=" not in word], [word for word in argv if "=" in word]
    named = [word for word in words if word in presets]
    others = [word for word in words if word not in presets]
    if path_key and others and not any(value.startswith(f"{path_key}=") for value in values):
        if len(others) > 1 and all(map(_is_path, others)):
            raise InputError(
                f"{len(others)} paths ({others[0]}, {others[1]}, ...), but there is one: put a pattern with braces "
                "into quotes, or name the folder"
            )
        if len(others) == 1 and _is_path(others[0]):
            path = [f"{path_key}={others[0]}"]
            return [*named, *path, *values] if values else [*(named or [FIRST_PRESET]), *path, *defaults]
    if defaults and not path_key and not others and not values:
        return [*(named or [FIRST_PRESET]), *defaults]
    return list(argv)


def _is_path(word: str) -> bool:
    return os.path.exists(os.path.expanduser(word)) or any(sign in word for sign in "/.{")
