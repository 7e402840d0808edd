"""The download stage alone: private hosts, and a success rate that smells of a broken network."""

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import web
from PIL import Image
from web import encode

from emage import config
from emage.config import IngestConfig
from emage.errors import InputError
from emage.on_ray import download, ingest

pytestmark = pytest.mark.ray


@pytest.fixture
def settings(ray_cluster, tmp_path) -> IngestConfig:
    return config.preset(
        IngestConfig,
        "tiny",
        output=str(tmp_path / "out"),
        source={"table": str(tmp_path / "urls.parquet")},
        stage="download",
        mlflow={"enabled": False},
    )


def write_urls(settings: IngestConfig, urls: list[str]) -> None:
    pq.write_table(pa.table({"url": urls, "caption": ["a grey square"] * len(urls)}), settings.source.table)


def test_private_hosts_are_refused_unless_allowed(settings):
    with web.serving({"/a.png": encode(Image.new("RGB", (64, 64), "grey"))}) as address:
        port = address.rsplit(":", 1)[1]
        write_urls(
            settings, [f"http://{host}:{port}/a.png" for host in ("127.0.0.1", "localhost", "[::ffff:127.0.0.1]")]
        )
        strict = replace(settings, download=replace(settings.download, allow_private_hosts=False))
        report = ingest.ingest(strict)
    assert report["failed"] == {"private_address": 3}
    assert report["waiting"] == report["written"] == 0


def test_too_few_successes_stop_the_run_and_mark_nothing(settings):
    with web.serving({"/a.png": encode(Image.new("RGB", (64, 64), "grey"))}) as address:
        write_urls(settings, [f"{address}/a.png"] + ["http://no-such-host.invalid/a.png"] * 9)
        strict = replace(settings, download=replace(settings.download, min_success_rate=0.5, timeout_s=3.0))
        with pytest.raises(InputError, match=r"shard 0: 1 of 10 pictures arrived.*9 failed with"):
            ingest.ingest(strict)
        assert not list((Path(settings.output) / "shards").iterdir())
        lenient = replace(settings, download=replace(strict.download, min_success_rate=0.1))
        report = ingest.ingest(lenient)  # the same output goes on
    assert report["waiting"] == 1
    assert sum(report["failed"].values()) == 9


def test_rows_keep_the_order_of_the_table(settings):
    """Threads finish in any order; the files do not show it."""
    pages: dict[str, web.Page] = {f"/{i}.png": encode(Image.new("RGB", (16 + i, 16), (i, 0, 0))) for i in range(100)}
    with web.serving(pages) as address:
        write_urls(settings, [f"{address}/{i}.png" for i in range(100)])
        ingest.ingest(settings)
    pictures = pq.read_table(Path(settings.output) / "shards" / "00000" / download.PICTURES)
    assert pictures["width"].to_pylist() == [16 + i for i in range(100)]
    assert pictures["key"].to_pylist() == sorted(pictures["key"].to_pylist())
