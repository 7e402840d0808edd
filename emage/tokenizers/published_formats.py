"""The published file formats of tokenizer weights, each read to a dict of tensors. No code from a file is run.

    a Lightning checkpoint (.ckpt)         taming: tensors under "state_dict", next to losses, optimizers, callbacks
    a zip with a model.ckpt inside         latent-diffusion
    a folder: encoder.pkl and decoder.pkl  OpenAI's dVAE: pickled modules of the package dall_e
    a .safetensors file                    any of these, converted

Pickles are read by emage/utils/untrusted/safe_pickle.py; the classes that they name are listed here.
"""

import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePath
from typing import IO, Any

import safetensors.torch
from torch import Tensor

from emage.utils.untrusted.safe_pickle import PlaceholderClass, unpickle, unpickle_legacy, unsafe_file

DVAE_FILES = ("encoder", "decoder")  # one .pkl each

# Classes of callbacks whose state Lightning checkpoints contain. Lightning need not be installed.
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

# Classes that OpenAI's pickled modules name.
DVAE_NAMES = [
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
    """Return the model's tensors from a file or folder in one of the formats above, without those of training losses.

    Raises:
        ValueError: The file is in none of the formats, is damaged, or would run code.
    """
    path = Path(path)
    if path.is_dir():
        return read_openai(path)
    if path.suffix == ".pkl":
        raise ValueError(f"{path} is one half of a dVAE: pass the folder that holds encoder.pkl and decoder.pkl")
    if path.suffix == ".safetensors":
        state = safetensors.torch.load_file(path)
    else:
        with open_checkpoint(path) as file:
            state = read_lightning(file, path)
    tensors = {key: tensor for key, tensor in state.items() if not str(key).startswith("loss.")}
    if not all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in tensors.items()):
        raise ValueError(f"{path} has entries other than tensors under 'state_dict'")
    return tensors


def open_checkpoint(path: Path) -> IO[bytes]:
    """Open a checkpoint, unpacked if it is inside latent-diffusion's zip (torch's own files are zips, too)."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if PurePath(member).name == "model.ckpt":
                        return _unpacked(archive, member)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        RuntimeError,
    ) as error:  # RuntimeError: it needs a password
        raise unsafe_file(path, error) from error
    return open(path, "rb")


def _unpacked(archive: zipfile.ZipFile, member: str) -> IO[bytes]:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it. A copy, because the unpickler must seek
    with archive.open(member) as source:
        shutil.copyfileobj(source, file)
    file.seek(0)
    return file


def read_lightning(file: IO[bytes], path: Path) -> dict[Any, Any]:
    """Return the entries under "state_dict" of a Lightning checkpoint."""
    checkpoint = unpickle(file, LIGHTNING_NAMES, path)
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path} has no 'state_dict': expected a Lightning checkpoint")
    return state


def read_openai(folder: Path) -> dict[str, Tensor]:
    """Return the parameters of the dVAE's two modules, under "encoder." and "decoder."."""
    tensors: dict[str, Tensor] = {}
    for part in DVAE_FILES:
        path = folder / f"{part}.pkl"
        if not path.is_file():
            raise ValueError(f"{folder} has no {part}.pkl: a dVAE is a folder with encoder.pkl and decoder.pkl")
        with open(path, "rb") as file:
            is_legacy = file.read(2) != b"PK"
            file.seek(0)
            module = (unpickle_legacy if is_legacy else unpickle)(file, DVAE_NAMES, path)
        tensors |= _parameters(module, part, path)
    return tensors


def _parameters(root: Any, prefix: str, path: Path) -> dict[str, Tensor]:
    """Return what state_dict() would return, from the states of placeholders.

    A module that occurs twice is an error: the file could otherwise cause an endless loop.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    todo = [(prefix, root)]
    while todo:
        name, module = todo.pop()
        state = module.state if isinstance(module, PlaceholderClass) and isinstance(module.state, dict) else {}
        own, children = state.get("_parameters"), state.get("_modules")
        if id(module) in seen or not isinstance(own, dict) or not isinstance(children, dict):
            raise ValueError(f"{path}: {name} is not a module of a dVAE")
        seen.add(id(module))
        tensors |= {f"{name}.{key}": tensor for key, tensor in own.items() if isinstance(tensor, Tensor)}
        todo += [(f"{name}.{key}", child) for key, child in children.items()]
    return tensors
