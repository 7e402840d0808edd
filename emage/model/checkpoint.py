"""A checkpoint folder: everything that is needed to generate images. No pickles, and no trust in whoever made it.

model.safetensors      text encoder and decoder
tokenizer.safetensors  the image tokenizer; not in models of the package, which use the shipped one
config.yaml            CheckpointConfig
manifest.json          sha256 of the files, the tokenizer's identity, step, training settings; written last
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from emage import tokenizers
from emage.config import CheckpointConfig, from_yaml, to_yaml
from emage.data.schema import TokenizerInfo
from emage.methods import METHODS
from emage.model import checkpoint_manifest
from emage.model.transformer import Network
from emage.tokenizers import weight_files
from emage.utils import manifest
from emage.utils.errors import InputError, one_line
from emage.utils.untrusted import plain_data, weights_header
from emage.version import __version__

MODEL, TOKENIZER, CONFIG = "model.safetensors", "tokenizer.safetensors", "config.yaml"

MAX_CONFIG_BYTES = 100_000  # a config has a thousand
# The errors of networks and files whose sizes or names contradict each other.
MISFITS = (OSError, SafetensorError, RuntimeError, ValueError, TypeError, AssertionError, ArithmeticError, LookupError)


def describe(tokenizer: Any) -> TokenizerInfo:
    """Return a loaded tokenizer's identity, as token tables and checkpoints record it."""
    return TokenizerInfo(tokenizer.name, tokenizer.sha256, tokenizer.vocab_size, tuple(tokenizer.grid))


def build(config: CheckpointConfig) -> Network:
    """Return the network that a config describes, with random weights."""
    return Network(config.model, config.vocab_size, config.grid, causal=METHODS[config.method].CAUSAL)


def save(
    folder: str | Path,
    network: Network,
    tokenizer: Any,
    config: CheckpointConfig,
    metadata: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    with_tokenizer: bool = True,
) -> None:
    """Write a checkpoint folder. An older checkpoint there is replaced when the new one is complete.

    Args:
        folder: The folder.
        network: In float32.
        tokenizer: The tokenizer that the network was trained with.
        config: Method, sizes and sampling settings.
        metadata: Further entries of the manifest: step, git commit, data, scores.
        dtype: Precision of the numbers in the file; loading makes them float32 again.
        with_tokenizer: Write the tokenizer too. Only models of the package do without: it holds their tokenizer.

    Raises:
        InputError: If the folder holds something else, or the network is not in float32.
    """
    _reject_rounded(network)
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / manifest.NAME).exists())):
        raise InputError(f"{folder} already exists and is not a checkpoint: choose another folder")
    with manifest.new_folder(folder) as fresh:
        weight_files.write({key: value.to(dtype) for key, value in network.state_dict().items()}, fresh / MODEL)
        if with_tokenizer:
            tokenizers.save(tokenizer, fresh / TOKENIZER)
        (fresh / CONFIG).write_text(to_yaml(config))
        files = {file.name: manifest.sha256(file) for file in sorted(fresh.iterdir())}
        record = {"emage": __version__, "tokenizer": asdict(describe(tokenizer)), "files": files, **metadata}
        manifest.write_json(fresh / manifest.NAME, record)


def check(folder: str | Path) -> tuple[CheckpointConfig, dict[str, Any]]:
    """Compare every file of a checkpoint folder with its sha256, and return the config and the manifest.

    Raises:
        InputError: If it is not a checkpoint, is damaged, or holds another tokenizer than the one of its training.
    """
    folder = Path(folder)
    record = _record(folder)
    for name, digest in record["files"].items():
        if not (folder / name).is_file():
            raise damaged(folder, f"{name} is missing")
        if manifest.sha256(folder / name) != digest:
            expected = "this model was trained with" if name == TOKENIZER else f"that {manifest.NAME} lists"
            raise damaged(folder, f"{name} is not the one {expected}")
    try:
        return from_yaml(CheckpointConfig, plain_data.read_text(folder / CONFIG, MAX_CONFIG_BYTES)), record
    except MISFITS as error:
        raise unreadable(folder, record, f"{CONFIG}: {one_line(error)}") from error


def load(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[Network, Any, CheckpointConfig, dict[str, Any]]:
    """Return network (eval mode, float32), tokenizer, config and manifest of a folder. Raise the errors of `check`."""
    config, record = check(folder)
    try:
        weights_header.check_weights(lambda: build(config), Path(folder) / MODEL)
        network = build(config)
        network.load_state_dict(load_file(Path(folder) / MODEL))
    except MISFITS as error:
        raise unreadable(folder, record, f"{MODEL} is not of the network in {CONFIG}: {one_line(error)}") from error
    tokenizer = _tokenizer(Path(folder), record, device)
    return network.to(device).eval(), tokenizer, config, record


# --- Checks -----------------------------------------------------------------------------------------------------------


def _reject_rounded(network: Network) -> None:
    """Raise InputError unless the weights are float32: rounded ones must not be saved as the model."""
    rounded = {str(p.dtype).removeprefix("torch.") for p in network.parameters() if p.dtype != torch.float32}
    if rounded:
        raise InputError(f"the model was loaded as {rounded.pop()}: load it with dtype=float32 to save it")


def _record(folder: Path) -> dict[str, Any]:
    """Return the manifest. It must list all files of a model, or they would be read without a check."""
    try:
        record = checkpoint_manifest.read_any(folder)
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or "files" not in record or not (folder / CONFIG).is_file():
        if _is_of_another_version(record):
            raise unreadable(folder, record, "its files are others")
        wanted = f"{CONFIG}, {MODEL}, {TOKENIZER}, {manifest.NAME}"
        raise InputError(f"{folder} is not a checkpoint folder (it needs {wanted})")
    try:
        record = checkpoint_manifest.known_keys(record)
    except ValueError as error:
        raise unreadable(folder, record, f"{manifest.NAME}: {error}") from None
    tokenizer = record.get("tokenizer", {})
    uses_shipped = tokenizers.is_shipped(tokenizer.get("name", "")) and not (folder / TOKENIZER).exists()
    for name in (CONFIG, MODEL) if uses_shipped else (CONFIG, MODEL, TOKENIZER):
        if name not in record["files"]:
            raise unreadable(folder, record, f"{manifest.NAME} does not list {name} under files")
    if not {"name", "sha256"} <= tokenizer.keys():
        raise unreadable(folder, record, f"{manifest.NAME} does not name the tokenizer it was trained with")
    return record


def _tokenizer(folder: Path, record: dict[str, Any], device: str | torch.device) -> Any:
    """Return the folder's tokenizer, or the package's. Raise InputError if it is not the one of the manifest."""
    recorded = record["tokenizer"]
    try:
        if TOKENIZER in record["files"]:
            tokenizer = tokenizers.load_file(folder / TOKENIZER, device)
        else:
            tokenizer = tokenizers.load(recorded["name"], device=device)
    except ValueError as error:
        raise unreadable(folder, record, str(error)) from error
    if (tokenizer.name, tokenizer.sha256) != (recorded["name"], recorded["sha256"]):
        raise damaged(
            folder,
            f"its tokenizer is {tokenizer.name} ({tokenizer.sha256[:12]}), but "
            f"{manifest.NAME} names {recorded['name']} ({recorded['sha256'][:12]})",
        )
    return tokenizer


def damaged(folder: str | Path, what: str) -> InputError:
    """Return the error for a checkpoint whose files contradict each other."""
    return InputError(f"{folder} is a damaged checkpoint: {what}: copy the whole folder again")


def unreadable(folder: str | Path, record: Any, what: str) -> InputError:
    """Return the error for a checkpoint that this version cannot read: another version made it, or it is damaged.

    Args:
        folder: The checkpoint.
        record: The value in its manifest, which names the version.
        what: What cannot be read.
    """
    if not _is_of_another_version(record):
        return damaged(folder, what)
    version = checkpoint_manifest.version(record)
    return InputError(
        f"{folder} was made by emage {version}, this is emage {__version__}, which cannot read it ({what}): "
        f"use emage {version}"
    )


def _is_of_another_version(record: Any) -> bool:
    return checkpoint_manifest.version(record) not in (None, __version__)
