"""Image shards: the folders `shards/NNNNN` that the download writes and the tokenizing stage reads.

    pictures.parquet, pictures-N-DIGEST.parquet    the images of round 1, and those of round N (schema.IMAGE_SCHEMA)
    failed.parquet or failed-N-DIGEST.parquet      every other row, with its drop reason (schema.DROPPED_SCHEMA)
    manifest.json                                  written last: only the files that it lists count

The folders of tokenized shards, `tokenized/NNNNN`, have the same names, and a manifest as well.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from emage.utils import manifest

SHARD_DIGITS = 5
BATCH_ROWS = 256  # that are read at a time
IMAGES, FAILED = "pictures.parquet", "failed.parquet"


def finished(folder: Path, rounds: int = 1) -> dict[str, Any] | None:
    """Return the download stage's manifest if every shard exists and has had that many rounds, else None."""
    values = manifest.read_json(folder / manifest.NAME)
    if values is None or values["passes"] < rounds:
        return None
    return values if all_exist(folder, values["shards"]) else None


def all_exist(folder: Path, num_shards: int) -> bool:
    """Return True if `folder` has the shards 0 to num_shards - 1, each with its manifest."""
    return all((shard_folder(folder, number) / manifest.NAME).is_file() for number in range(num_shards))


def shard_folder(folder: Path, number: int) -> Path:
    """Return the folder of a shard."""
    return folder / f"{number:0{SHARD_DIGITS}d}"


def read_manifest(folder: Path, number: int) -> dict[str, Any] | None:
    """Return a shard's manifest, or None if the shard does not exist."""
    return manifest.read_json(shard_folder(folder, number) / manifest.NAME)


def image_files(folder: Path, number: int) -> list[Path]:
    """Return the parquet files (schema.IMAGE_SCHEMA) of an image shard, of all rounds in order.

    Raises:
        InputError: One of them is damaged.
    """
    return manifest.check_outputs(shard_folder(folder, number), _existing(folder, number)["pictures"])


def read_rows(folder: Path, number: int) -> Iterator[dict[str, Any]]:
    """Yield the rows (schema.IMAGE_SCHEMA) of an image shard, of all rounds in order.

    Raises:
        InputError: One of its files is damaged.
    """
    for file in image_files(folder, number):
        with pq.ParquetFile(file) as images:
            for batch in images.iter_batches(batch_size=BATCH_ROWS):
                yield from batch.to_pylist()


def fingerprint(folder: Path, number: int) -> str:
    """Return a digest of an image shard's images; the tokenized shard that is made from it records the digest."""
    shard = _existing(folder, number)
    return manifest.fingerprint([shard["outputs"][name] for name in shard["pictures"]])


def _existing(folder: Path, number: int) -> dict[str, Any]:
    shard = read_manifest(folder, number)
    assert shard is not None, f"image shard {number} has disappeared"
    return shard
