"""The tokenizing stage: image shards -> tokenized shards. tokenize_dataset.py computes tokens, this file writes them.

A tokenized shard is a folder `tokenized/NNNNN`: `tokens.parquet` (schema.token_schema), `rejected.parquet` (every row
that a caption rule or the decoder dropped, with its drop reason) and `manifest.json`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from emage.config import TokenizeConfig
from emage.data import schema
from emage.data.ingest.captions import caption_language, caption_rules
from emage.on_ray import tasks
from emage.on_ray.ingest import tokenize_dataset
from emage.on_ray.ingest.download import image_shards
from emage.on_ray.ingest.tokenize_dataset import TokenizedShard
from emage.on_ray.ingest.tokenize_workers import METADATA_SCHEMA
from emage.utils import manifest
from emage.utils.errors import InputError
from emage.version import __version__

TOKENS, REJECTED = "tokens.parquet", "rejected.parquet"
KEY_BITS = 40  # lower bits of a uid, the row's key as a number; the upper bits are a hash of the data set's name
SUMMED = ("rejected", "failed", "datasets")  # the counters of a manifest with one number per drop reason or data set


def describe(config: TokenizeConfig, image_size: int) -> schema.TokenizerInfo:
    """Load the tokenizer that the settings name, and return its identity.

    Raises:
        InputError: It cannot be loaded, or does not fit images of `image_size` px.
    """
    import torch

    from emage import tokenizers

    try:
        tokenizer = tokenizers.load(config.tokenizer, config.weights)
    except (ValueError, OSError) as error:
        raise InputError(f"tokenize.tokenizer={config.tokenizer}: {error}") from None
    num_tokens = tokenizer.encode(torch.zeros(1, 3, image_size, image_size)).shape[1]
    height, width = tokenizer.grid
    if num_tokens != height * width:
        raise InputError(
            f"{tokenizer.name} makes {num_tokens} tokens of a {image_size}x{image_size} image, but its grid is "
            f"{height}x{width}: set download.image_size to the size that it was trained on"
        )
    assert tokenizer.vocab_size <= 1 << 16, "tokens are uint16"
    return schema.TokenizerInfo(tokenizer.name, tokenizer.sha256, tokenizer.vocab_size, (height, width))


def run(
    config: TokenizeConfig, info: schema.TokenizerInfo, *, image_size: int, shards: Path, folder: Path
) -> dict[str, Any]:
    """Tokenize every shard that `folder` does not hold yet.

    Args:
        config: The settings.
        info: The identity of the tokenizer, see `describe`.
        image_size: Width and height of the images, px.
        shards: The image shards.
        folder: The tokenized shards.

    Returns:
        The stage's manifest.

    Raises:
        InputError: A shard in `folder` was made by another tokenizer or with other caption rules.
    """
    folder.mkdir(exist_ok=True)
    manifest.remove_leftovers(folder)
    downloaded = manifest.read_json(shards / manifest.NAME)
    rules: list[Any] = [caption_rules.RULES_VERSION, config.caption_rules]  # captions are cleaned without the rules too
    if config.caption_rules:
        rules += [sorted(config.languages), caption_language.DETECTOR]
    settings = manifest.fingerprint([asdict(info), rules])
    inputs = _fingerprints(shards, downloaded["shards"])
    totals: dict[str, Any] = {"rows": 0, "written": 0} | {name: Counter() for name in SUMMED}
    missing = []
    for number, shard in _existing(folder, inputs, settings):
        if shard is None:
            missing.append(number)
        else:
            _add(totals, shard)
    with tasks.progress_bar("tokenize", downloaded["written"] - totals["rows"], "images") as bar:
        for number, shard in tokenize_dataset.tokenize(config, missing, image_size, shards, bar):
            target = image_shards.shard_folder(folder, number)
            _add(totals, _write(target, shard, info, inputs[number], settings))
    values = {
        "shards": len(inputs),
        **totals,
        **{name: dict(sorted(totals[name].items())) for name in SUMMED},
        "tokenizer": asdict(info),
        "settings": settings,
        "input": manifest.fingerprint(inputs),
    }
    manifest.write_json(folder / manifest.NAME, values)
    return values


def finished(shards: Path, folder: Path) -> dict[str, Any] | None:
    """Return the stage's manifest if every tokenized shard exists and its image shard has not changed, else None."""
    values = manifest.read_json(folder / manifest.NAME)
    downloaded = image_shards.finished(shards)
    if values is None or downloaded is None or values["shards"] != downloaded["shards"]:
        return None
    if values["input"] != manifest.fingerprint(_fingerprints(shards, values["shards"])):
        return None
    return values if image_shards.all_exist(folder, values["shards"]) else None


def _fingerprints(shards: Path, count: int) -> list[str]:
    """Return a digest of each image shard; a tokenized shard has the one that it was made from as its `input`."""
    return [image_shards.fingerprint(shards, number) for number in range(count)]


def _existing(folder: Path, inputs: list[str], settings: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield every shard's number and manifest; None: the shard is missing or was made from other images."""
    for number, content in enumerate(inputs):
        shard = image_shards.read_manifest(folder, number)
        if shard is not None and shard["input"] == content and shard["settings"] != settings:
            target = image_shards.shard_folder(folder, number)
            raise InputError(
                f"{target} was made by another tokenizer or with other caption rules; "
                "choose another output= or delete the folder"
            )
        yield number, shard if shard is not None and shard["input"] == content else None


def _add(totals: dict[str, Any], shard: dict[str, Any]) -> None:
    """Add a shard's counters to running sums: a list of all manifests would grow with the table."""
    for name in ("rows", "written"):
        totals[name] += shard[name]
    for name in SUMMED:
        totals[name].update(shard[name])


# The files of a tokenized shard


def _token_table(info: schema.TokenizerInfo, shard: TokenizedShard) -> pa.Table:
    """Return a shard's rows as a token table."""
    batches = [shard.batches[index] for index in range(shard.num_batches)]
    target = schema.token_schema(info, __version__)
    metadata = pa.concat_tables([METADATA_SCHEMA.empty_table(), *(metadata for metadata, _ in batches)])
    tokens = np.concatenate([np.empty((0, info.num_tokens), np.uint16), *(tokens for _, tokens in batches)])
    assert tokens.max(initial=0) < info.vocab_size
    columns: dict[str, Any] = {name: metadata[name] for name in METADATA_SCHEMA.names}
    columns["tokens"] = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), info.num_tokens)
    names = zip(metadata["dataset"].to_pylist(), metadata["key"].to_pylist(), strict=True)
    columns["uid"] = pa.array([uid(dataset, key) for dataset, key in names], pa.int64())
    return pa.table([columns[name] for name in target.names], schema=target)


def uid(dataset: str, key: str) -> int:
    """Return a row's uid of 63 bits: a hash of the data set's name in 23, the key's number in KEY_BITS."""
    name = int.from_bytes(hashlib.sha256(dataset.encode()).digest()[:3], "big") >> 1
    assert int(key) < 1 << KEY_BITS
    return name << KEY_BITS | int(key)


def _write(
    folder: Path, shard: TokenizedShard, info: schema.TokenizerInfo, content: str, settings: str
) -> dict[str, Any]:
    """Write a tokenized shard. Return its manifest."""
    table = _token_table(info, shard)
    with manifest.new_folder(folder) as temporary:
        pq.write_table(table, temporary / TOKENS, compression="zstd")
        pq.write_table(shard.rejected, temporary / REJECTED, compression="zstd")
        values = {
            **shard.counts,
            "written": len(table),
            "datasets": dict(sorted(Counter(table["dataset"].to_pylist()).items())),
            "input": content,
            "settings": settings,
            "outputs": {name: manifest.sha256(temporary / name) for name in (TOKENS, REJECTED)},
        }
        manifest.write_json(temporary / manifest.NAME, values)
    return values
