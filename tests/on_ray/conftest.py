"""One ingest of the small table over loopback, which several files of tests look at and none changes. A small disk."""

import csv
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pairs
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import web

from emage import config
from emage.config import IngestConfig
from emage.on_ray.ingest import driver as ingest


@pytest.fixture(scope="session")
def web_site() -> Iterator[tuple[dict[str, web.Page], str]]:
    pages: dict[str, web.Page] = {}
    with web.serving(pages) as address:
        yield pages, address


@pytest.fixture(scope="session")
def ingested(ray_cluster, web_site, tmp_path_factory) -> pairs.Ingested:
    folder = tmp_path_factory.mktemp("ingest")
    rows = pairs.table(*web_site)
    columns = {"url": [url for url, _ in rows], "caption": [caption for _, caption in rows]}
    pq.write_table(pa.table(columns), folder / "urls.parquet")
    with open(folder / "more.csv", "w", newline="") as file:
        csv.writer(file).writerows([("link", "text", "score"), *pairs.more_table(*web_site)])
    more = {"table": str(folder / "more.csv"), "url": "link", "caption": ["text"], "where": ["score>0.5"]}
    settings = config.preset(
        IngestConfig,
        "tiny",
        output=str(folder / "out"),
        source={"table": str(folder / "urls.parquet"), "dataset": "shapes"},
        more={"more": more},
        download={
            "shard_rows": 80,
            "timeout_s": 2.5,
            "retries": 0,
            "max_bytes": 1_000_000,
            "max_image_pixels": 4_000_000,
        },
        shuffle={"rows_per_file": 100, "row_group_rows": 32},
        mlflow={"enabled": False},
    )
    return pairs.Ingested(settings, rows, ingest.ingest(settings))


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """A file system of so many kB; called again, it gets another size."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(kilobytes: int) -> Path:
        remount = ["-o", f"remount,size={kilobytes}k"] if os.path.ismount(folder) else ["-o", f"size={kilobytes}k"]
        done = subprocess.run(["mount", "-t", "tmpfs", *remount, "tmpfs", str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"this machine lets nobody mount a small disk: {done.stderr.strip()}")
        return folder

    yield mount
    if os.path.ismount(folder):
        subprocess.run(["umount", str(folder)], check=True)
