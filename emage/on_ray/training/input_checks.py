"""The checks of a training's inputs, the same for a run and for a dry run: token table, tokenizer, network, weights."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from emage import tokenizers
from emage.config import TrainConfig
from emage.data import schema
from emage.data.schema import TokenizerInfo
from emage.methods.sampling import check_sampling
from emage.model import checkpoint, finetune, hub
from emage.model.text import load_published
from emage.utils import storage
from emage.utils.errors import InputError


def with_checked_inputs(config: TrainConfig, fetch: bool) -> tuple[TrainConfig, TokenizerInfo]:
    """Return the settings with absolute paths, and the tokenizer that made the token table.

    With `data.rows`, for a plan, the table is not read: it is taken to be made by the tokenizer of the settings.

    Args:
        config: The settings.
        fetch: Download weights that are missing. False: they are not compared with the settings.

    Raises:
        InputError: The table, the tokenizer or the weights to start from are not usable, or do not fit together.
    """
    config = _with_absolute_paths(config)
    if config.data.rows is None:
        _, made_by = schema.open_token_table(config.data.path)
        _check_tokenizer(config, made_by, fetch)
    else:
        made_by = _planned_tokenizer(config)
    check_sampling(config.sampling, made_by.num_tokens)
    is_new = not any(Path(config.run.output).absolute().glob("checkpoints/step_*"))
    _check_network(config, made_by, is_new, fetch)
    return config, made_by


def _with_absolute_paths(config: TrainConfig) -> TrainConfig:
    def absolute(path: str | None) -> str | None:
        return path and os.path.abspath(path)

    data = replace(
        config.data,
        path=storage.absolute(config.data.path),
        tokenizer_weights=absolute(config.data.tokenizer_weights),
    )
    init = absolute(config.init) if config.init and Path(config.init).exists() else config.init  # else a hub's id
    model = replace(config.model, text_weights=absolute(config.model.text_weights))
    return replace(config, init=init, data=data, model=model)


def _planned_tokenizer(config: TrainConfig) -> TokenizerInfo:
    """Return the tokenizer of the settings; its sha256 is "" if its weights are not on this machine.

    Raises:
        InputError: There is no such tokenizer, or its weights are another's.
    """
    name, weights = config.data.tokenizer, config.data.tokenizer_weights
    with _as_input_error():
        sizes = tokenizers.sizes(name, weights)
        sha256 = "" if tokenizers.needs_download(name, weights) else tokenizers.load(name, weights).sha256
    return TokenizerInfo(name, sha256, sizes.vocab_size, sizes.grid)


def _check_tokenizer(config: TrainConfig, made_by: TokenizerInfo, fetch: bool) -> None:
    """Raise InputError if the settings' tokenizer did not make the table.

    It is not used later: the workers load it on their own machines. One of another name is not downloaded to find that
    it differs.
    """
    name, weights = config.data.tokenizer, config.data.tokenizer_weights
    is_loaded = not tokenizers.needs_download(name, weights) or (fetch and name == made_by.name)
    with _as_input_error():
        sha256 = tokenizers.load(name, weights=weights).sha256 if is_loaded else None
    if sha256 == made_by.sha256 or (sha256 is None and name == made_by.name):
        return
    theirs, ours = f"{made_by.name} ({made_by.sha256[:12]})", f"{name} ({sha256[:12]})" if sha256 else name
    raise InputError(
        f"{config.data.path} was made with tokenizer {theirs}, not with {ours}: set data.tokenizer (and "
        "data.tokenizer_weights) to that one"
    )


def _check_network(config: TrainConfig, made_by: TokenizerInfo, is_new: bool, fetch: bool) -> None:
    """Raise InputError if the settings describe no network, or a new run cannot start from its weights.

    Nothing that is loaded here is used later: the workers load it on their own machines.
    """
    settings = config.checkpoint_config(made_by.vocab_size, made_by.grid)
    with _as_input_error(), torch.device("meta"):
        network = checkpoint.build(settings)
    if not is_new:
        return
    if config.init:
        is_readable = fetch or hub.local(config.init) or not hub.is_hub_id(config.init)
        if is_readable and made_by.sha256:  # of a plan it may be unknown
            finetune.starting_point(config.init, settings, made_by)
    elif fetch or config.model.text_weights:
        load_published(network.text.to_empty(device="cpu"), config.model)  # downloads them here, once, or raises


@contextmanager
def _as_input_error() -> Iterator[None]:
    """Turn the errors of tokenizers and networks about settings and files into an InputError."""
    try:
        yield
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None
