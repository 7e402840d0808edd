"""Weight files of tokenizers: our safetensors, which know their own config, and the published Lightning checkpoints.

Nothing here runs code from a file: pickles are read by torch's weights_only unpickler or not at all.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError

import safetensors
import torch
from safetensors.torch import load_file as read_safetensors
from safetensors.torch import save_file as write_safetensors
from torch import Tensor

from emage.tokenizers.vqgan import VQGAN, VQGANConfig

METADATA_KEY = "emage"  # one key only: safetensors writes several in random order, and equal weights must hash equal


class Inert:
    """Stands in for a class that a checkpoint names but whose content we drop."""


# Lightning files carry the state of these callbacks under their classes. Mapping the names to an empty class lets the
# safe unpickler pass over them, with or without Lightning installed.
DROPPED_CLASSES = [
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
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tokenizer.state_dict().items()}
    write_safetensors(tensors, temporary, metadata={METADATA_KEY: description})
    temporary.replace(path)
    return sha256_of(path)


def load_file(path: str | Path, device: str | torch.device = "cpu") -> VQGAN:
    """The tokenizer that `save` wrote."""
    described = describe(path)
    if described is None:
        raise ValueError(f"{path} does not say which tokenizer it holds: use load(name, weights=path)")
    name, config = described
    return build(name, config, read_safetensors(path), sha256_of(path), device)


def describe(path: str | Path) -> tuple[str, VQGANConfig] | None:
    """Name and config inside a safetensors file; None if `save` did not write it."""
    with safetensors.safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        return None
    described = json.loads(text)
    fields = {key: tuple(value) if isinstance(value, list) else value for key, value in described["vqgan"].items()}
    return described["name"], VQGANConfig(**fields)


def read(path: str | Path) -> dict[str, Tensor]:
    """The model's tensors, from a .safetensors file or a Lightning .ckpt."""
    if Path(path).suffix == ".safetensors":
        return read_safetensors(path)
    return read_lightning(path)


def read_lightning(path: str | Path) -> dict[str, Tensor]:
    """The tensors under `state_dict`, without the training losses' (LPIPS, discriminator)."""
    try:
        with torch.serialization.safe_globals(DROPPED_CLASSES):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} cannot be loaded safely: it is damaged, no checkpoint, or a pickle that wants to run code. "
            f"If you trust its author, keep its tensors alone in a .safetensors file and load that. ({reason})"
        ) from error
    state = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise ValueError(f"{path} has no 'state_dict': expected a Lightning checkpoint")
    return {key: tensor for key, tensor in state.items() if not key.startswith("loss.")}


def build(
    name: str, config: VQGANConfig, tensors: dict[str, Tensor], sha256: str, device: str | torch.device = "cpu"
) -> VQGAN:
    """A tokenizer in eval mode, in float32, without gradients."""
    with torch.device("meta"):
        tokenizer = VQGAN(config, name)
    try:
        tokenizer.load_state_dict({key: tensor.float() for key, tensor in tensors.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit {name}: {error}") from error
    tokenizer.sha256 = sha256
    return tokenizer.eval().requires_grad_(False).to(device)


def sha256_of(path: str | Path) -> str:
    digest = hashlib.sha256()  # hashlib.file_digest is not in Python 3.10
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
