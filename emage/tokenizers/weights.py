"""Weight files of tokenizers: our safetensors, which know their own config, and the published Lightning checkpoints.

Nothing here runs code from a file: pickles are read by torch's weights_only unpickler or not at all.
"""

import json
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from emage import manifest
from emage.tokenizers.vqgan import VQGAN, VQGANConfig

# What torch.load raised on 3000 damaged checkpoints.
UNPICKLING_ERRORS = (
    UnpicklingError,
    RuntimeError,
    EOFError,
    struct.error,
    AssertionError,
    AttributeError,
    LookupError,
    TypeError,
    ValueError,
)

METADATA_KEY = "emage"  # one key only: safetensors writes several in random order, and equal weights must hash equal


class Inert:
    """Stands in for a class that a checkpoint names but whose content we drop."""


# Lightning files carry the state of these callbacks under their classes. Mapping the names to an empty class lets the
# safe unpickler pass over them, with or without Lightning installed.
DROPPED_CLASSES: list[Callable | tuple[Callable, str]] = [
    (Inert, f"{package}.callbacks.{module}")
    for package in ("pytorch_lightning", "lightning.pytorch")
    for module in (
        "model_checkpoint.ModelCheckpoint",
        "early_stopping.EarlyStopping",
        "lr_monitor.LearningRateMonitor",
        "lr_logger.LearningRateLogger",
    )
]


def save(tokenizer: VQGAN, path: str | Path) -> str:
    """Writes the weights with name and config, so that `load_file(path)` rebuilds the tokenizer. Returns the sha256."""
    description = json.dumps({"name": tokenizer.name, "vqgan": asdict(tokenizer.config)}, sort_keys=True)
    write(tokenizer.state_dict(), path, {METADATA_KEY: description})
    return manifest.sha256(path)


def write(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """A safetensors file, whole or not at all."""
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    content = safetensors.torch.save({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, metadata)
    temporary.write_bytes(content)  # safetensors' own save_file makes files that only their owner can read
    temporary.replace(path)


def load_file(path: str | Path, device: str | torch.device = "cpu") -> VQGAN:
    """The tokenizer that `save` wrote."""
    described = describe(path)
    if described is None:
        raise ValueError(f"{path} does not say which tokenizer it holds: use load(name, weights=path)")
    name, config = described
    return build(name, config, read(path), manifest.sha256(path), device)


def describe(path: str | Path) -> tuple[str, VQGANConfig] | None:
    """Name and config inside a safetensors file; None if `save` did not write it."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if text is None:
        return None
    described = json.loads(text)
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in described["vqgan"].items()
    }
    return described["name"], VQGANConfig(**fields)


def read(path: str | Path) -> dict[str, Tensor]:
    """The model's tensors, from a .safetensors file or a Lightning .ckpt.

    The training losses' (LPIPS, discriminator) are left out.
    """
    state = safetensors.torch.load_file(path) if Path(path).suffix == ".safetensors" else read_lightning(path)
    return {key: tensor for key, tensor in state.items() if not key.startswith("loss.")}


def read_lightning(path: str | Path) -> dict[str, Tensor]:
    """The tensors under `state_dict`."""
    try:
        with torch.serialization.safe_globals(DROPPED_CLASSES):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except UNPICKLING_ERRORS as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} cannot be loaded safely: it is damaged, no checkpoint, or a pickle that wants to run code. "
            f"If you trust its author, keep its tensors alone in a .safetensors file and load that. ({reason})"
        ) from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path} has no 'state_dict': expected a Lightning checkpoint")
    return state


def build(
    name: str, config: VQGANConfig, tensors: dict[str, Tensor], sha256: str, device: str | torch.device = "cpu"
) -> VQGAN:
    """A tokenizer in eval mode, in float32, without gradients."""
    with torch.random.fork_rng(devices=[]):  # the random weights that are overwritten here cost no seed
        tokenizer = VQGAN(config, name)
    try:
        tokenizer.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit {name}: {str(error)[:500]}") from error
    tokenizer.sha256 = sha256
    return tokenizer.eval().requires_grad_(False).to(device)
