"""Fine-tuning: the weights of a checkpoint as the start of a training, and which settings must be those of it."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from emage.config import CheckpointConfig, ModelConfig
from emage.data.schema import TokenizerInfo
from emage.methods import METHODS
from emage.model import hub
from emage.model.checkpoint import CONFIG, MISFITS, MODEL, TOKENIZER, check, unreadable
from emage.model.transformer import Network
from emage.utils.errors import InputError, one_line

TEXT_POSITIONS = "text.tower.positional_embedding"  # CLIP's, one row per position; BERT always has 512


def start_from(
    network: Network, path_or_hub_id: str | Path, config: CheckpointConfig, tokenizer: TokenizerInfo
) -> dict[str, Any]:
    """Load a checkpoint's weights into a network; return the checkpoint's manifest.

    The text encoder's weights are included: published ones need not be loaded first.

    Args:
        network: Built from `config`.
        path_or_hub_id: As for `starting_point`, which also lists the settings that must be equal.
        config: Of the training.
        tokenizer: The one that made the tokens of the training data.

    Raises:
        InputError: As `starting_point` does, and if the file's tensors are not those of the network.
    """
    folder, record = starting_point(path_or_hub_id, config, tokenizer)
    try:
        tensors = load_file(folder / MODEL)
        if TEXT_POSITIONS in tensors:
            tensors[TEXT_POSITIONS] = tensors[TEXT_POSITIONS][: config.model.text_length]
        network.load_state_dict(tensors)
    except MISFITS as error:
        raise unreadable(folder, record, f"{MODEL} is not of the network in {CONFIG}: {one_line(error)}") from error
    return record


def starting_point(
    path_or_hub_id: str | Path, config: CheckpointConfig, tokenizer: TokenizerInfo
) -> tuple[Path, dict[str, Any]]:
    """Return the folder and the manifest of a checkpoint that a training can start from.

    The tokenizer and the model's settings must be the checkpoint's, except:
    - method: every method but the autoregressive one (causal attention) can start from every other;
    - text_length: may be smaller, the encoder's first positions are kept; further ones were never trained;
    - text_frozen: decides what is trained from now on;
    - text_weights: not used, the text encoder's weights are the checkpoint's.

    Args:
        path_or_hub_id: A checkpoint folder, the name of a shipped model, or a hub id, which is downloaded once.
        config: Of the training.
        tokenizer: The one that made the tokens of the training data.

    Raises:
        InputError: For the first setting that differs, and as `checkpoint.check` and `hub.find` do.
    """
    folder = hub.find(path_or_hub_id)
    saved, record = check(folder)
    if differs := next(_differences(saved, record["tokenizer"], config, tokenizer, folder), None):
        raise InputError(f"init={path_or_hub_id}: {differs}")
    return folder, record


def _differences(
    saved: CheckpointConfig, recorded: dict[str, Any], config: CheckpointConfig, tokenizer: TokenizerInfo, folder: Path
) -> Iterator[str]:
    """Yield each difference that prevents `config` from starting with the weights of `saved`, and what to do."""
    if METHODS[saved.method].CAUSAL != METHODS[config.method].CAUSAL:
        yield (
            f"method={saved.method} in the checkpoint and {config.method} here: an autoregressive network attends "
            f"to earlier positions only, the others to all; set method={saved.method} or start from another checkpoint"
        )
    if (recorded["name"], recorded["sha256"]) != (tokenizer.name, tokenizer.sha256):
        yield (
            f"tokenizer {recorded['name']} ({recorded['sha256'][:12]}) in the checkpoint and {tokenizer.name} "
            f"({tokenizer.sha256[:12]}) made the token table: ingest with tokenize.tokenizer={recorded['name']} "
            f"tokenize.weights={folder / TOKENIZER}"
        )
    if saved.vocab_size != config.vocab_size:
        yield f"{saved.vocab_size} codes in the checkpoint and {config.vocab_size} here: ingest with its tokenizer"
    if tuple(saved.grid) != tuple(config.grid):
        theirs, ours = ("x".join(map(str, grid)) for grid in (saved.grid, config.grid))
        yield (
            f"grid {theirs} in the checkpoint and {ours} in the token table: ingest images of the size it was "
            "trained on (download.image_size)"
        )
    for item in fields(ModelConfig):
        theirs, ours = getattr(saved.model, item.name), getattr(config.model, item.name)
        may_differ = item.name in ("text_frozen", "text_weights") or (item.name == "text_length" and ours <= theirs)
        if theirs != ours and not may_differ:
            most = " or less" if item.name == "text_length" else ""
            yield (
                f"model.{item.name}={theirs} in the checkpoint and {ours} here: set model.{item.name}={theirs}{most}"
            )
