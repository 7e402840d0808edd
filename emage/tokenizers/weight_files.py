"""Weight files of tokenizers: safetensors with the tokenizer's name and config; the fingerprint of weights."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from emage.config.cli import from_values
from emage.tokenizers.dvae import DVAE, DVAEConfig
from emage.tokenizers.vqgan import VQGAN, VQGANConfig
from emage.utils import manifest
from emage.utils.errors import one_line
from emage.utils.untrusted import plain_data, weights_header

Tokenizer = VQGAN | DVAE
Config = VQGANConfig | DVAEConfig

MAX_DESCRIPTION = 100_000  # characters of a file's description; ours have 300
MAX_NAME = 100  # characters

METADATA_KEY = "emage"  # one key only: safetensors writes several in random order, and equal weights must hash equal
# Name of an architecture in files -> the classes of its config and its network. A new architecture is one line here.
ARCHITECTURES: dict[str, tuple[type[Config], type[Tokenizer]]] = {
    "vqgan": (VQGANConfig, VQGAN),
    "dvae": (DVAEConfig, DVAE),
}


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Return one sha256 of all tensors: of their keys, dtypes, shapes and bytes, in the order of the keys.

    It identifies the weights whatever file they are in.
    """
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        digest.update(json.dumps([key, str(tensor.dtype), list(tensor.shape)]).encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save(tokenizer: Tokenizer, path: str | Path) -> str:
    """Write a tokenizer's weights with its name and config, so that `load_file(path)` rebuilds it.

    Args:
        tokenizer: Any tokenizer of this package.
        path: The .safetensors file to write.

    Returns:
        The fingerprint of the weights: the `sha256` of a tokenizer that is loaded from the file.

    Examples:
        ```python
        tokenizers.save(tokenizer, "tokenizer.safetensors")
        ```
    """
    kind = _kind(tokenizer.config)
    description = json.dumps({"name": tokenizer.name, kind: asdict(tokenizer.config)}, sort_keys=True)
    write(tokenizer.state_dict(), path, {METADATA_KEY: description})
    return fingerprint(tokenizer.state_dict())


def write(tensors: dict[str, Tensor], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, completely or not at all."""
    content = safetensors.torch.save({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, metadata)
    # Not safetensors' save_file: only their owner can read its files.
    with manifest.new_file(path) as temporary, open(temporary, "wb") as file:
        file.write(content)


def load_file(path: str | Path, device: str | torch.device = "cpu") -> Tokenizer:
    """Load a tokenizer from a file that `save` wrote; the file has its name and config.

    Args:
        path: The .safetensors file.
        device: The device to load the weights on.

    Raises:
        ValueError: The file is damaged, or `save` did not write it.

    Examples:
        ```python
        tokenizer = tokenizers.load_file("runs/demo/train/model/tokenizer.safetensors")
        ```
    """
    described = describe(path)
    if described is None:
        raise ValueError(f"{path} does not name the tokenizer that it holds: use load(name, weights=path)")
    name, config = described
    with _explain_misfit(name):
        weights_header.check_weights(lambda: build_network(config, name), path)
    return build(name, config, safetensors.torch.load_file(path), device)


def describe(path: str | Path) -> tuple[str, Config] | None:
    """Return the name and config inside a safetensors file; None if `save` did not write it."""
    if Path(path).is_dir():
        raise ValueError(f"{path} is a folder, not a safetensors file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged or not a safetensors file: {error}") from error
    if text is None:
        return None
    described = _json_object(text)
    kind = next((kind for kind in ARCHITECTURES if kind in described), None)
    if kind is None or not _is_name(described.get("name")):
        raise ValueError(f"{path} holds no tokenizer of an architecture of this version ({', '.join(ARCHITECTURES)})")
    try:
        return described["name"], from_values(ARCHITECTURES[kind][0], described[kind])  # which checks names and types
    except (ValueError, TypeError, AssertionError) as error:
        raise ValueError(f"{path} holds a tokenizer that this version of emage cannot build: {error}") from error


def _json_object(text: str) -> dict[str, Any]:
    """Return the object in a JSON text; an empty one for anything else, and for a text of unusual size."""
    try:
        value = plain_data.parse_json(text) if len(text) <= MAX_DESCRIPTION else None
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def _is_name(value: Any) -> bool:
    """Return whether a value can be a tokenizer's name, which is shown in messages and in model cards."""
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME and value.isprintable()


def build_network(config: Config, name: str) -> Tokenizer:
    """Return the network of a config, with random weights."""
    return ARCHITECTURES[_kind(config)][1](config, name)  # type: ignore[arg-type]


def _kind(config: Config) -> str:
    return next(kind for kind, (settings, _) in ARCHITECTURES.items() if isinstance(config, settings))


def build(name: str, config: Config, tensors: dict[str, Tensor], device: str | torch.device = "cpu") -> Tokenizer:
    """Return a tokenizer with these weights, in eval mode, in float32, without gradients.

    Args:
        name: The tokenizer's name.
        config: Sizes of the network.
        tensors: The weights, by the network's keys.
        device: The device to move it to.

    Raises:
        ValueError: The weights do not fit the config.
    """
    with _explain_misfit(name):
        # The network starts with random weights: the caller's random state must not change.
        with torch.random.fork_rng(devices=[]):
            tokenizer = build_network(config, name)
        tokenizer.load_state_dict(tensors, strict=True)
    tokenizer.sha256 = fingerprint(tokenizer.state_dict())
    return tokenizer.eval().requires_grad_(False).to(device)


@contextmanager
def _explain_misfit(name: str) -> Iterator[None]:
    """Turn the errors of tensors of another network, and of sizes that no network has, into a ValueError."""
    try:
        yield
    except (RuntimeError, ValueError, ArithmeticError, LookupError) as error:
        raise ValueError(f"the weights do not fit {name}: {one_line(error)}") from error
