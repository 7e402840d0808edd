"""Unpickling of PyTorch files without running code from them.

`unpickle` uses torch's weights_only unpickler, which calls only torch's own tensor builders. A caller may name classes
that a file refers to; they are read as `PlaceholderClass`, an empty class, and never looked up.
`unpickle_legacy` does the same for whole modules as torch before 1.6 wrote them, which weights_only does not read.
"""

import io
import pickle
import re
import struct
import warnings
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import torch
from torch import _utils

# The exceptions that torch.load raised on 4000 damaged checkpoints.
UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    struct.error,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
)


class PlaceholderClass:
    """Stands in for a class that a file names. It accepts any arguments and state, and does nothing with them."""

    dump_patches = False  # True: torch writes a patch file with changes of a class's source into the working folder

    def __init__(self, *args: Any):
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def unpickle(file: IO[bytes], placeholders: Sequence[str], path: Path) -> Any:
    """Return what torch's weights_only unpickler reads.

    Args:
        file: The file, opened for reading bytes.
        placeholders: Full names of classes and functions that become PlaceholderClass.
        path: The file's path, for the message.

    Raises:
        ValueError: If the file is damaged or refers to anything else.
    """
    stand_ins: list[Callable | tuple[Callable, str]] = [(PlaceholderClass, name) for name in placeholders]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(file, map_location="cpu", weights_only=True)
    except UNPICKLING_ERRORS as error:
        raise unsafe_file(path, error) from error


def unpickle_legacy(file: IO[bytes], placeholders: Sequence[str], path: Path) -> Any:
    """Return a module as torch before 1.6 wrote it: not a zip, and with the source code of its classes.

    Only the names in `allowed` can be called. Unpickling could also set attributes on a function, so functions are
    wrapped again for each file: a file that changes one does not change torch's. Arguments and errors: see `unpickle`.
    """
    allowed: dict[str, Any] = dict.fromkeys(placeholders, PlaceholderClass)
    allowed["collections.OrderedDict"] = OrderedDict
    allowed["__builtin__.set"] = set  # protocol 2 writes the name of Python 2
    allowed["torch.device"] = torch.device
    for function in (_utils._rebuild_tensor_v2, _utils._rebuild_parameter):
        allowed[f"torch._utils.{function.__name__}"] = partial(function)

    class RestrictedUnpickler(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str) -> Any:
            name = f"{module_name}.{global_name}"
            if name not in allowed:
                raise pickle.UnpicklingError(f"GLOBAL {name} is not allowed")
            return allowed[name]

    def load(file: IO[bytes], **options: Any) -> Any:
        return RestrictedUnpickler(file, **options).load()

    restricted = SimpleNamespace(__name__="restricted", Unpickler=RestrictedUnpickler, load=load)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.serialization.SourceChangeWarning)
            # From memory: for a file on disk torch would also try a tar archive, and unpack it.
            content = io.BytesIO(file.read())
            options = {"pickle_module": restricted, "weights_only": False}  # an unpickler that runs nothing
            return torch.load(content, map_location="cpu", **options)  # nosec B614
    except UNPICKLING_ERRORS as error:
        raise unsafe_file(path, error) from error


def unsafe_file(path: Path, error: Exception) -> ValueError:
    """Return the one-line error for a file that an unpickler rejected."""
    return ValueError(
        f"{path} cannot be loaded safely: it is damaged, not a checkpoint, or a pickle that would run code. "
        f"If you trust its author, save its tensors alone to a .safetensors file and load that. ({reason(error)})"
    )


def reason(error: Exception) -> str:
    """Return the first sentence of an unpickler's error; torch's next sentences advise to load unsafely."""
    if name := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it refers to {name[1]}"
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()  # after torch's own introduction
    sentence = re.split(r"(?<=\S)\.\s|\n", text, maxsplit=1)[0][:200]
    if isinstance(error, (RuntimeError, pickle.UnpicklingError, zlib.error)) and sentence:
        return sentence
    return f"{type(error).__name__}: {sentence}".removesuffix(": ")  # a KeyError's text alone is not informative
