"""A checkpoint for use: a folder that holds all it takes to draw. No pickle.

model.safetensors      text encoder and decoder
tokenizer.safetensors  the picture tokenizer
config.yaml            CheckpointConfig
manifest.json          sha256 of the files, the tokenizer's identity, step and where the weights come from; written last
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import emage
from emage import manifest, tokenizers
from emage.config import CheckpointConfig, from_yaml, to_yaml
from emage.errors import InputError
from emage.methods import METHODS
from emage.model import Network
from emage.schema import TokenizerInfo
from emage.tokenizers import weights

MODEL, TOKENIZER = "model.safetensors", "tokenizer.safetensors"


def describe(tokenizer: Any) -> TokenizerInfo:
    """A loaded tokenizer's identity, as token tables and checkpoints record it."""
    return TokenizerInfo(tokenizer.name, tokenizer.sha256, tokenizer.vocab_size, tuple(tokenizer.grid))


def build(config: CheckpointConfig) -> Network:
    """The network a config describes, with fresh weights."""
    return Network(config.model, config.vocab_size, config.grid, causal=METHODS[config.method].CAUSAL)


def save(folder: str | Path, network: Network, tokenizer: Any, config: CheckpointConfig, facts: dict[str, Any]) -> None:
    """Writes a checkpoint folder, replacing an older one there only once the new one is complete.

    `facts` go into the manifest: step, git commit, data, scores. Raises InputError where something else is in the way.
    """
    folder = Path(folder).resolve()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / manifest.NAME).exists())):
        raise InputError(f"{folder} already exists and is no checkpoint: choose another folder")
    with manifest.new_folder(folder) as fresh:
        weights.write({key: value.float() for key, value in network.state_dict().items()}, fresh / MODEL)
        tokenizers.save(tokenizer, fresh / TOKENIZER)
        (fresh / "config.yaml").write_text(to_yaml(config))
        files = {file.name: manifest.sha256(file) for file in sorted(fresh.iterdir())}
        record = {"emage": emage.__version__, "tokenizer": asdict(describe(tokenizer)), "files": files, **facts}
        manifest.write_json(fresh / manifest.NAME, record)


def check(folder: str | Path) -> tuple[CheckpointConfig, dict[str, Any]]:
    """Config and manifest of a checkpoint folder, every file compared with its sha256.

    Raises InputError where the folder is none, is damaged, or holds another tokenizer than the one it was trained with.
    """
    folder = Path(folder)
    try:
        record = manifest.read_json(folder / manifest.NAME)
    except (OSError, ValueError):
        record = None
    if record is None or "files" not in record or not (folder / "config.yaml").is_file():
        wanted = f"config.yaml, {MODEL}, {TOKENIZER}, {manifest.NAME}"
        raise InputError(f"{folder} is no checkpoint folder (it needs {wanted})")
    for name, digest in record["files"].items():
        if not (folder / name).is_file():
            raise InputError(f"{folder} is a damaged checkpoint: {name} is missing")
        if manifest.sha256(folder / name) != digest:
            what = "not the one this model was trained with" if name == TOKENIZER else f"not what {manifest.NAME} says"
            raise InputError(f"{folder} is a damaged checkpoint: {name} is {what}")
    return from_yaml(CheckpointConfig, (folder / "config.yaml").read_text()), record


def load(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[Network, Any, CheckpointConfig, dict[str, Any]]:
    """Network (eval mode, float32), tokenizer, config and manifest of a checkpoint folder. Raises what `check` does."""
    config, record = check(folder)
    network = build(config)
    network.load_state_dict(load_file(Path(folder) / MODEL))
    tokenizer = _tokenizer(Path(folder), record["tokenizer"], device)
    return network.to(device).eval(), tokenizer, config, record


def _tokenizer(folder: Path, recorded: dict[str, Any], device: str | torch.device) -> Any:
    """The folder's tokenizer, if its weights are those that the manifest names."""
    try:
        tokenizer = tokenizers.load_file(folder / TOKENIZER, device)
    except ValueError as error:
        raise InputError(f"{folder} is a damaged checkpoint: {error}") from error
    if (tokenizer.name, tokenizer.sha256) != (recorded["name"], recorded["sha256"]):
        raise InputError(
            f"{folder} is a damaged checkpoint: its tokenizer is {tokenizer.name} ({tokenizer.sha256[:12]}), but "
            f"{manifest.NAME} says {recorded['name']} ({recorded['sha256'][:12]}): copy the whole folder again"
        )
    return tokenizer
