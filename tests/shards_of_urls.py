"""Shards of URLs, as the select stage writes them, and the images that a download made of them."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from emage.data import schema
from emage.on_ray.ingest.download import download_shard, image_shards
from emage.utils import manifest


def write_urls(folder: Path, *shards: list[str | None]) -> Path:
    """Write shards of URLs with their manifest, as the stage before does. Rows alternate between two data sets."""
    folder.mkdir(exist_ok=True)
    listed = []
    for number, urls in enumerate(shards):
        columns = [urls, [f"image {url}" for url in urls], [("even", "odd")[i % 2] for i in range(len(urls))]]
        columns.append([None] * len(urls))
        name = f"{number:05d}.parquet"
        pq.write_table(pa.table(columns, schema=schema.URL_SCHEMA), folder / name)
        listed.append({"name": name, "rows": len(urls), "sha256": manifest.sha256(folder / name)})
    manifest.write_json(folder / download_shard.URLS_MANIFEST, {"shards": listed, "rows": sum(map(len, shards))})
    return folder


def arrived(shards: Path) -> list[dict[str, Any]]:
    """Return every image's row, as the next stage reads it."""
    numbers = range(manifest.read_json(shards / manifest.NAME)["shards"])
    files = [file for number in numbers for file in image_shards.image_files(shards, number)]
    return [row for file in files for row in pq.read_table(file).to_pylist()]
