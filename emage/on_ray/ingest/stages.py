"""The four stages of an ingest: which of them are done, which are to run, and how each is called.

    output/urls/NNNNN.parquet  rows to download               (emage.on_ray.ingest.select_urls)
    output/shards/NNNNN/       downloaded images              (emage.on_ray.ingest.download.image_shards)
    output/tokenized/NNNNN/    tokens, shard by shard         (emage.on_ray.ingest.tokenize_shards)
    output/tokens/*.parquet    the token table                (emage.on_ray.ingest.shuffle)

A stage whose manifest exists is not run again, a shard whose manifest exists is not made again. Once the token table
exists, the folders of single shards may be deleted to save space; the stages' own manifests must stay.
"""

import shutil
from collections.abc import Collection
from itertools import takewhile
from pathlib import Path
from typing import Any

from emage.config import IngestConfig, SourceConfig
from emage.data import schema
from emage.data.ingest import url_filter
from emage.on_ray.ingest import select_urls, shuffle, tokenize_shards
from emage.on_ray.ingest.download import download_stage, image_shards
from emage.utils import manifest
from emage.utils.errors import InputError

STAGES = ("select", "download", "tokenize", "shuffle")
WORK_FOLDERS = {"select": "select", "shuffle": "shuffle"}  # stage -> its folder for intermediate files


def list_requested(stage: str) -> tuple[str, ...]:
    """Return the stages that the setting `stage` names, in order."""
    return {"all": STAGES, "download": ("select", "download")}.get(stage, (stage,))


def read_finished(output: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Return stage -> manifest of the finished stages, up to the first that is missing or was made from other input.

    Args:
        output: The ingest's folder.
        rounds: The setting download.passes: a download with fewer rounds is not finished.
    """
    urls, shards, tokenized, tokens = (output / name for name in ("urls", "shards", "tokenized", "tokens"))
    found = {
        "select": select_urls.finished(urls),
        "download": manifest.read_json(shards / manifest.NAME),
        "tokenize": manifest.read_json(tokenized / manifest.NAME),
        "shuffle": shuffle.finished(tokens),
    }
    # If the token table was made from all of it, the single shards need not exist any more.
    if not all(found.values()) or not _is_one_chain(found) or found["download"]["passes"] < rounds:
        found["download"] = image_shards.finished(shards, rounds)
        found["tokenize"] = tokenize_shards.finished(shards, tokenized)
        tokenized_now, table = found["tokenize"], found["shuffle"]
        if tokenized_now and table and table["input"] != shuffle.input_fingerprint(tokenized_now):
            found["shuffle"] = None
    return dict(takewhile(lambda stage: stage[1], found.items()))


def _is_one_chain(found: dict[str, Any]) -> bool:
    """Return True if each stage was made from what the one before it has now."""
    return (
        found["tokenize"]["input"] == found["download"]["content"]
        and shuffle.input_fingerprint(found["tokenize"]) == found["shuffle"]["input"]
    )


def check_input(stage: str, done: Collection[str], output: Path) -> None:
    """Raise InputError if the stage before `stage`, which is the first to run, is not finished."""
    for later, before in (("tokenize", "download"), ("shuffle", "tokenize")):
        if stage == later and before not in done:
            raise InputError(f"{output} has no finished {before} stage; run stage={before} (or stage=all) first")


def run_stage(
    stage: str,
    config: IngestConfig,
    output: Path,
    *,
    tables: list[SourceConfig],
    block_lists: url_filter.BlockLists | None,
    tokenizer: schema.TokenizerInfo | None,
) -> None:
    """Run one stage. The stages "select" and "download" need the block lists, "tokenize" the tokenizer."""
    urls, shards, tokenized = (output / name for name in ("urls", "shards", "tokenized"))
    if stage == "select":
        assert block_lists is not None
        work, shard_rows = output / WORK_FOLDERS[stage], config.download.shard_rows
        select_urls.run(tables, config.select, shard_rows, work=work, folder=urls, blocked=block_lists)
    elif stage == "download":
        assert block_lists is not None
        download_stage.run(config.download, urls, shards, block_lists.md5, tables)
    elif stage == "tokenize":
        assert tokenizer is not None
        image_size = config.download.image_size
        tokenize_shards.run(config.tokenize, tokenizer, image_size=image_size, shards=shards, folder=tokenized)
    else:
        shuffle.run(config.shuffle, tokenized=tokenized, work=output / WORK_FOLDERS[stage], folder=output / "tokens")


def remove_work(stages: Collection[str], output: Path) -> None:
    """Delete the work folders of stages that are not run: a kill at the very end of a stage may have left them."""
    for stage, folder in WORK_FOLDERS.items():
        if stage not in stages:
            shutil.rmtree(output / folder, ignore_errors=True)
