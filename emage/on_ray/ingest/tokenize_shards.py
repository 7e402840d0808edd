"""Image shards -> tokenized shards. How tokens are made is tokenize_dataset.py's; here they become files.

A tokenized shard is a folder `tokenized/NNNNN`: `tokens.parquet` (schema.token_table), `rejected.parquet` (every row
that a caption rule or the decoder dropped, with its cause) and `manifest.json`.
"""

import hashlib
import os
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
from emage.data.ingest.captions import caption_rules
from emage.on_ray import tasks
from emage.on_ray.ingest import download, tokenize_dataset
from emage.utils import manifest
from emage.utils.errors import InputError
from emage.version import __version__

TOKENS, REJECTED = "tokens.parquet", "rejected.parquet"
ROW_BITS = 40  # of a uid: the key's number; the data set's hash is above it
SUMMED = ("rejected", "failed", "datasets")  # a manifest's counters by name, beside rows and written


def describe(config: TokenizeConfig, image_size: int) -> schema.TokenizerInfo:
    """The tokenizer's identity. Raises InputError where it cannot be loaded or does not fit the images' size."""
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
    """Tokenizes every shard that `folder` does not hold yet. Returns the stage's manifest."""
    folder.mkdir(exist_ok=True)
    manifest.remove_leftovers(folder)
    downloaded = manifest.read_json(shards / manifest.NAME)
    rules = caption_rules.RULES_VERSION if config.caption_rules else None
    settings = manifest.fingerprint([asdict(info), rules])
    inputs = _inputs(shards, downloaded["shards"])
    totals: dict[str, Any] = {"rows": 0, "written": 0} | {name: Counter() for name in SUMMED}
    missing = []
    for number, shard in _made(folder, inputs, settings):
        if shard is None:
            missing.append(number)
        else:
            _add(totals, shard)
    with tasks.progress_bar("tokenize", downloaded["written"] - totals["rows"], "images") as bar:
        for number, shard in tokenize_dataset.tokenized(config, missing, image_size, shards, bar):
            target = download.shard_folder(folder, number)
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
    """The stage's manifest where every tokenized shard is there and made from today's image shards, else None."""
    values = manifest.read_json(folder / manifest.NAME)
    downloaded = download.finished(shards)
    if values is None or downloaded is None or values["shards"] != downloaded["shards"]:
        return None
    if values["input"] != manifest.fingerprint(_inputs(shards, values["shards"])):
        return None
    there = set(os.listdir(folder))  # a shard's folder has its name when it is complete
    return values if all(download.shard_folder(folder, n).name in there for n in range(values["shards"])) else None


def _inputs(shards: Path, count: int) -> list[str]:
    """What each tokenized shard is made from."""
    return [download.content(shards, number) for number in range(count)]


def _made(folder: Path, inputs: list[str], settings: str) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Every shard's number with its manifest, None where it is missing or made from other images."""
    for number, content in enumerate(inputs):
        shard = download.shard_manifest(folder, number)
        if shard is not None and shard["input"] == content and shard["settings"] != settings:
            raise InputError(
                f"{download.shard_folder(folder, number)} was made by another tokenizer or with other caption rules; "
                "choose another output= or delete the folder"
            )
        yield number, shard if shard is not None and shard["input"] == content else None


def _add(totals: dict[str, Any], shard: dict[str, Any]) -> None:
    """Running sums: a list of all shards' manifests would grow with the table."""
    for name in ("rows", "written"):
        totals[name] += shard[name]
    for name in SUMMED:
        totals[name].update(shard[name])


# --- The token table -------------------------------------------------------------------------------------------------


def _token_table(info: schema.TokenizerInfo, shard: tokenize_dataset.Shard) -> pa.Table:
    """Plain Arrow columns, whatever Ray made of them on the way."""
    parts = [shard.batches[place] for place in range(shard.places)]
    target = schema.token_table(info, __version__)
    meta = pa.concat_tables([tokenize_dataset.META.empty_table(), *(meta for meta, _ in parts)])
    tokens = np.concatenate([np.empty((0, info.num_tokens), np.uint16), *(tokens for _, tokens in parts)])
    assert tokens.max(initial=0) < info.vocab_size
    columns: dict[str, Any] = {name: meta[name] for name in tokenize_dataset.META.names}
    columns["tokens"] = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), info.num_tokens)
    names = zip(meta["dataset"].to_pylist(), meta["key"].to_pylist(), strict=True)
    columns["uid"] = pa.array([uid(dataset, key) for dataset, key in names], pa.int64())
    return pa.table([columns[name] for name in target.names], schema=target)


def uid(dataset: str, key: str) -> int:
    """63 bits: the data set's name hashed to 23, the key's number in 40."""
    name = int.from_bytes(hashlib.sha256(dataset.encode()).digest()[:3], "big") >> 1
    assert int(key) < 1 << ROW_BITS
    return name << ROW_BITS | int(key)


def _write(
    folder: Path, shard: tokenize_dataset.Shard, info: schema.TokenizerInfo, content: str, settings: str
) -> dict[str, Any]:
    """Writes a tokenized shard. Returns its manifest."""
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
