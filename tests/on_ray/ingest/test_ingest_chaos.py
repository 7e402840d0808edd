"""An ingest that is killed, disconnected or out of disk resumes to the same bytes, and does little twice.

The machine dies (driver, raylet and workers by SIGKILL; `make faults`), the disk is full (`make chaos`). Lost nodes are
tested in tests/benchmarks/test_nodes_benchmark.py.
"""

import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import web
from PIL import Image
from programs import finish, kill_when, pipeline, start

from emage.data import shapes
from emage.utils import manifest

NUM_ROWS, SHARD_ROWS = 300, 25


class Site:
    """Images on loopback, slow enough for a kill in between, and how often each was requested."""

    def __init__(self, folder: Path):
        self.requested = Counter[str]()
        self.pages: dict[str, web.Page] = {}
        self.table = folder / "urls.parquet"
        self.scenes = shapes.sample_train_scenes(NUM_ROWS, seed=3)

    def open(self, address: str) -> None:
        for i, pixels in enumerate(shapes.render_many(self.scenes, seed=3)):
            self.pages[f"/{i}.png"] = self._counted(f"/{i}.png", web.encode(Image.fromarray(pixels)))
        urls = [f"{address}/{i}.png" for i in range(NUM_ROWS - 10)] + [f"{address}/gone{i}.png" for i in range(10)]
        pq.write_table(pa.table({"url": urls, "caption": [scene.caption for scene in self.scenes]}), self.table)

    def _counted(self, name: str, body: bytes) -> web.Page:
        def page(handler) -> None:
            self.requested[name] += 1
            time.sleep(0.05)
            web.answer(body)(handler)

        return page

    def command(self, output: Path) -> list[str]:
        return [
            *pipeline("ingest", "tiny", f"source.table={self.table}"),
            *(f"output={output}", f"download.shard_rows={SHARD_ROWS}", "download.threads=4", "mlflow.enabled=false"),
            *("download.shards_in_flight=2", "shuffle.rows_per_file=40", "shuffle.row_group_rows=20"),
        ]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    site = Site(tmp_path_factory.mktemp("site"))
    with web.serving(site.pages) as address:
        site.open(address)
        yield site


@pytest.fixture(scope="module")
def whole(site, tmp_path_factory) -> dict[str, str]:
    """Return the digests of an uninterrupted run."""
    output = tmp_path_factory.mktemp("whole") / "out"
    finish(start(site.command(output)))
    return table(output)


def table(output: Path) -> dict[str, str]:
    return {file.name: manifest.sha256(file) for file in sorted((output / "tokens").glob("*.parquet"))}


@pytest.mark.faults
def test_killed_again_and_again(site, whole, tmp_path):
    """In the download, the tokenizing and the shuffle, each at a random moment; then the same command to the end."""
    output = tmp_path / "out"
    rng = random.Random(time.time_ns())
    site.requested.clear()
    shards = rng.sample(range(1, NUM_ROWS // SHARD_ROWS), 2)
    tokenized = rng.randrange(1, NUM_ROWS // SHARD_ROWS)
    print(f"killed after {sorted(shards)} shards, {tokenized} tokenized shards, and in the shuffle")
    for moment in (
        *(lambda n=n: len(list(output.glob("shards/*/manifest.json"))) >= n for n in sorted(shards)),
        lambda: len(list(output.glob("tokenized/*/manifest.json"))) >= tokenized,
        lambda: any((output / "shuffle").glob("*/*.npy")),
    ):
        kill_when(start(site.command(output)), moment)
        assert not (output / "ingest_report.json").exists()
    finish(start(site.command(output)))
    assert table(output) == whole
    report = manifest.read_json(output / "ingest_report.json")
    assert (report["rows_in"], report["written"], report["failed"]) == (NUM_ROWS, NUM_ROWS - 10, {"http_404": 10})
    assert not list(output.glob("*/.*"))  # without temporary files
    # Only what was in flight at the two kills in the download is downloaded twice: two shards each time.
    again = site.requested.total() - (NUM_ROWS - 10)
    assert max(site.requested.values()) <= 3 and again <= 2 * 2 * SHARD_ROWS * 1.6, again
    started = time.monotonic()
    finish(start(site.command(output)))  # and once more: nothing to do
    print(
        f"requested {again} again of {NUM_ROWS} images; the same command on the finished output took "
        f"{time.monotonic() - started:.1f} s"
    )
    assert site.requested.total() - (NUM_ROWS - 10) == again


@pytest.mark.chaos
def test_a_full_disk_is_one_line_and_drops_nothing(site, whole, tmp_path, small_disk):
    output = small_disk(400) / "out"  # room for the URLs and some of the images
    printed = finish(start(site.command(output)), code=2)
    last = printed.splitlines()[-1]
    assert last.startswith("error: ") and "the disk is full; free some space" in last, printed
    assert "Traceback" not in printed
    done = len(list(output.glob("shards/*/manifest.json")))
    size = sum(file.stat().st_size for file in output.rglob("*") if file.is_file()) // 1024
    small_disk(size + 300)  # enough for more images, but not for the tokens
    finish(start(site.command(output)), code=2)
    assert len(list(output.glob("shards/*/manifest.json"))) >= done
    small_disk(100_000)
    unreachable = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    printed = finish(start([*site.command(output), "mlflow.enabled=true"], **unreachable))
    assert printed.count("is unreachable; the stage continues") == 1
    assert table(output) == whole
