"""The published forms of tokenizer weights, each read to a plain dict of tensors. Nothing here runs code from a file.

    a Lightning checkpoint (.ckpt)         taming: tensors under "state_dict", beside losses, optimizers and callbacks
    a zip with a model.ckpt inside         latent-diffusion
    a folder: encoder.pkl and decoder.pkl  OpenAI's dVAE: pickled whole modules of package dall_e
    a .safetensors                         any of these, converted

Pickles are read by torch's weights_only unpickler. It calls nothing but torch's own tensor builders and the names that
we add, and every name that we add stands for `PlaceholderClass`, an empty class: the classes named in a file are never
looked up.
Only OpenAI's form before torch 1.6 needs an unpickler of ours (`read_legacy_module`), with the same names.
"""

import io
import pickle
import re
import shutil
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path, PurePath
from types import SimpleNamespace
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor, _utils

# What torch.load raised on 4000 damaged checkpoints.
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

PARTS = ("encoder", "decoder")  # of OpenAI's dVAE: a file each


class PlaceholderClass:
    """Stands in for a class that a file names. Takes whatever an unpickler gives it and does nothing with it."""

    dump_patches = False  # torch would write the difference to a class's source into the working folder

    def __init__(self, *args: Any):
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


# Lightning files carry the state of these callbacks under their classes, with or without Lightning installed.
LIGHTNING_NAMES = [
    f"{package}.callbacks.{module}"
    for package in ("pytorch_lightning", "lightning.pytorch")
    for module in (
        "model_checkpoint.ModelCheckpoint",
        "early_stopping.EarlyStopping",
        "lr_monitor.LearningRateMonitor",
        "lr_logger.LearningRateLogger",
    )
]

MODULE_NAMES = [
    "dall_e.encoder.Encoder",
    "dall_e.encoder.EncoderBlock",
    "dall_e.decoder.Decoder",
    "dall_e.decoder.DecoderBlock",
    "dall_e.utils.Conv2d",
    "functools.partial",
    "torch.nn.modules.activation.ReLU",
    "torch.nn.modules.container.Sequential",
    "torch.nn.modules.linear.Identity",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
]


def read(path: str | Path) -> dict[str, Tensor]:
    """The model's tensors, without those of the training losses. Raises ValueError."""
    path = Path(path)
    if path.is_dir():
        return read_openai(path)
    if path.suffix == ".pkl":
        raise ValueError(f"{path} is one half of a dVAE: give the folder that holds encoder.pkl and decoder.pkl")
    if path.suffix == ".safetensors":
        state = safetensors.torch.load_file(path)
    else:
        with open_checkpoint(path) as file:
            state = read_lightning(file, path)
    tensors = {key: tensor for key, tensor in state.items() if not str(key).startswith("loss.")}
    if not all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in tensors.items()):
        raise ValueError(f"{path} holds something else than tensors under 'state_dict'")
    return tensors


def open_checkpoint(path: Path) -> IO[bytes]:
    """The checkpoint itself, out of latent-diffusion's zip where it comes in one (torch's own files are zips too)."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if PurePath(member).name == "model.ckpt":
                        return unpacked(archive, member)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError) as error:  # RuntimeError: it has a password
        raise refusal(path, error) from error
    return open(path, "rb")


def unpacked(archive: zipfile.ZipFile, member: str) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it; the unpickler must seek
    with archive.open(member) as source:
        shutil.copyfileobj(source, file)
    file.seek(0)
    return file


def read_lightning(file: IO[bytes], path: Path) -> dict[Any, Any]:
    """What lies under "state_dict"."""
    checkpoint = unpickle(file, LIGHTNING_NAMES, path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path} has no 'state_dict': expected a Lightning checkpoint")
    return state


def read_openai(folder: Path) -> dict[str, Tensor]:
    """Both modules' parameters, under "encoder." and "decoder."."""
    tensors: dict[str, Tensor] = {}
    for part in PARTS:
        path = folder / f"{part}.pkl"
        if not path.is_file():
            raise ValueError(f"{folder} has no {part}.pkl: a dVAE is a folder with encoder.pkl and decoder.pkl")
        with open(path, "rb") as file:
            is_legacy = file.read(2) != b"PK"
            file.seek(0)
            module = read_legacy_module(file, path) if is_legacy else unpickle(file, MODULE_NAMES, path)
        tensors |= parameters(module, part, path)
    return tensors


def parameters(root: Any, prefix: str, path: Path) -> dict[str, Tensor]:
    """What state_dict() would give, from the states of inert modules. Each may occur once: a loop would never end."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    todo = [(prefix, root)]
    while todo:
        name, module = todo.pop()
        state = module.state if isinstance(module, PlaceholderClass) and isinstance(module.state, dict) else {}
        own, children = state.get("_parameters"), state.get("_modules")
        if id(module) in seen or not isinstance(own, dict) or not isinstance(children, dict):
            raise ValueError(f"{path}: {name} is no module of a dVAE")
        seen.add(id(module))
        tensors |= {f"{name}.{key}": tensor for key, tensor in own.items() if isinstance(tensor, Tensor)}
        todo += [(f"{name}.{key}", child) for key, child in children.items()]
    return tensors


# ---------------------------------------------------------------------------------------------------------------------
# Unpickling


def unpickle(file: IO[bytes], names: list[str], path: Path) -> Any:
    """What torch's weights_only unpickler makes of a file, with `names` inert. Raises ValueError."""
    stand_ins: list[Callable | tuple[Callable, str]] = [(PlaceholderClass, name) for name in names]
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(file, map_location="cpu", weights_only=True)
    except UNPICKLING_ERRORS as error:
        raise refusal(path, error) from error


def read_legacy_module(file: IO[bytes], path: Path) -> Any:
    """A module as torch wrote it before 1.6: not a zip, and with the source of its classes, which weights_only refuses.

    It calls only what `known` holds. Its BUILD would also set attributes on a function, so that those are wrapped anew
    each time: a file that changes one changes nothing of torch's.
    """
    known: dict[str, Any] = dict.fromkeys(MODULE_NAMES, PlaceholderClass)
    known["collections.OrderedDict"] = OrderedDict
    known["__builtin__.set"] = set  # protocol 2 writes the name of Python 2
    known["torch.device"] = torch.device
    for function in (_utils._rebuild_tensor_v2, _utils._rebuild_parameter):
        known[f"torch._utils.{function.__name__}"] = partial(function)

    class Restricted(pickle.Unpickler):
        def find_class(self, module_name: str, global_name: str) -> Any:
            name = f"{module_name}.{global_name}"
            if name not in known:
                raise pickle.UnpicklingError(f"GLOBAL {name} is not allowed")
            return known[name]

    def load(file: IO[bytes], **options: Any) -> Any:
        return Restricted(file, **options).load()

    restricted = SimpleNamespace(__name__="restricted", Unpickler=Restricted, load=load)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.serialization.SourceChangeWarning)
            # From memory: of a file on disk torch would also try a tar archive, and unpack it.
            content = io.BytesIO(file.read())
            return torch.load(content, map_location="cpu", pickle_module=restricted, weights_only=False)
    except UNPICKLING_ERRORS as error:
        raise refusal(path, error) from error


def refusal(path: Path, error: Exception) -> ValueError:
    """One line from what an unpickler raised."""
    return ValueError(
        f"{path} cannot be loaded safely: it is damaged, no checkpoint, or a pickle that wants to run code. "
        f"If you trust its author, keep its tensors alone in a .safetensors file and load that. ({reason(error)})"
    )


def reason(error: Exception) -> str:
    """The first sentence of what went wrong: in those that follow, torch advises to load unsafely."""
    if asked := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it asks for {asked[1]}"
    text = str(error).rpartition("WeightsUnpickler error:")[2].strip()  # behind torch's own introduction
    sentence = re.split(r"(?<=\S)\.\s|\n", text, maxsplit=1)[0][:200]
    if isinstance(error, (RuntimeError, pickle.UnpicklingError, zlib.error)) and sentence:
        return sentence
    return f"{type(error).__name__}: {sentence}".removesuffix(": ")  # "5" alone says nothing: KeyError: 5
