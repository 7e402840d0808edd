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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

import emage
from emage import manifest, tokenizers
from emage.config import CheckpointConfig, from_yaml, to_yaml
from emage.errors import InputError
from emage.methods import METHODS
from emage.model import Network
from emage.schema import TokenizerInfo

MODEL, TOKENIZER = "model.safetensors", "tokenizer.safetensors"


def describe(tokenizer: Any) -> TokenizerInfo:
    """A loaded tokenizer's identity, as token tables and checkpoints record it."""
    return TokenizerInfo(tokenizer.name, tokenizer.sha256, tokenizer.vocab_size, tuple(tokenizer.grid))


def build(config: CheckpointConfig) -> Network:
    """The network a config describes, with fresh weights."""
    return Network(config.model, config.vocab_size, config.grid, causal=METHODS[config.method].CAUSAL)


def save(folder: str | Path, network: Network, tokenizer: Any, config: CheckpointConfig, facts: dict[str, Any]) -> None:
    """Writes a checkpoint folder, replacing an older one there only once the new one is complete.

    `facts` go into the manifest: step, git commit, data, scores.
    """
    with manifest.new_folder(folder) as fresh:
        save_file({key: value.float().contiguous() for key, value in network.state_dict().items()}, fresh / MODEL)
        tokenizers.save(tokenizer, fresh / TOKENIZER)
        (fresh / "config.yaml").write_text(to_yaml(config))
        files = {file.name: manifest.sha256(file) for file in sorted(fresh.iterdir())}
        record = {"emage": emage.__version__, "tokenizer": asdict(describe(tokenizer)), "files": files, **facts}
        manifest.write_json(fresh / manifest.NAME, record)


def load(
    folder: str | Path, device: str | torch.device = "cpu"
) -> tuple[Network, Any, CheckpointConfig, dict[str, Any]]:
    """Network (eval mode, float32), tokenizer, config and manifest of a checkpoint folder.

    Raises InputError where the folder is none, is damaged, or its tokenizer isn't the one the network was trained with.
    """
    folder = Path(folder)
    record = manifest.read_json(folder / manifest.NAME) if folder.is_dir() else None
    if record is None or "files" not in record or not (folder / "config.yaml").is_file():
        raise InputError(f"{folder} is no checkpoint folder (it needs config.yaml, model.safetensors, {manifest.NAME})")
    config = from_yaml(CheckpointConfig, (folder / "config.yaml").read_text())
    try:
        network = build(config)
        network.load_state_dict(load_file(folder / MODEL))
        tokenizer = tokenizers.load(record["tokenizer"]["name"], weights=folder / TOKENIZER, device=device)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{folder} is a damaged checkpoint: {str(error).splitlines()[0]}") from None
    wanted = record["files"].get(TOKENIZER)
    if wanted != manifest.sha256(folder / TOKENIZER):
        raise InputError(f"{folder}: tokenizer.safetensors is not the one this model was trained with")
    return network.to(device).eval(), tokenizer, config, record
