"""URL tables -> shards of URLs: filtered, each pair once, in an order that depends on the rows alone."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emage import config
from emage.config import IngestConfig, SelectConfig, SourceConfig
from emage.data import schema
from emage.data.ingest import url_filter, url_table
from emage.data.ingest.tables import table_files
from emage.on_ray.ingest import select_tasks, select_urls
from emage.utils import manifest
from emage.utils.errors import InputError

pytestmark = pytest.mark.ray

NUM_ROWS = 1_000
NOTHING_BLOCKED = url_filter.read_block_lists((), (), ())


@pytest.fixture
def tables(tmp_path: Path) -> list[SourceConfig]:
    """Two data sets: a parquet table with metadata, and a tsv that repeats some of its pairs and some of its own."""
    i = np.arange(NUM_ROWS)
    urls, captions = [f"http://h{n % 7}.test/{n}.jpg" for n in i], [f"caption {n}" for n in i]
    columns = {"URL": urls, "TEXT": captions, "similarity": i / NUM_ROWS, "NSFW": np.where(i % 5, "UNLIKELY", "NSFW")}
    pq.write_table(pa.table(columns), tmp_path / "laion.parquet", row_group_size=70)
    lines = [f"{urls[n]}\t{captions[n]}" for n in range(500, 600)]  # the same pairs
    lines += [f"{urls[n]}\tanother caption {n}" for n in range(500, 600)]  # of the same images
    lines += ["http://own.test/1.jpg\towned"] * 10
    (tmp_path / "cc12m.tsv").write_text("\n".join(lines) + "\n")
    settings = config.parse(
        IngestConfig,
        [
            *("laion400m", f"source.table={tmp_path / 'laion.parquet'}", f"output={tmp_path / 'out'}"),
            *("source.where=[similarity>=0.2,NSFW==UNLIKELY]", f"more.cc12m.table={tmp_path / 'cc12m.tsv'}"),
        ],
    )
    return url_table.list_tables(settings)


def select(tables: list[SourceConfig], folder: Path, rows: int = 100, **lists: Any) -> tuple[dict, list[dict]]:
    blocked = url_filter.read_block_lists(*(lists.get(f"block_{kind}", ()) for kind in ("urls", "hosts", "md5")))
    values = select_urls.run(
        tables, SelectConfig(**lists), rows, blocked=blocked, work=folder / "work", folder=folder / "urls"
    )
    assert not (folder / "work").exists()
    assert values == select_urls.finished(folder / "urls")
    files = [pq.read_table(folder / "urls" / shard["name"]) for shard in values["shards"]]
    assert [len(file) for file in files] == [shard["rows"] for shard in values["shards"]]
    assert all(file.schema.equals(schema.URL_SCHEMA) for file in files)
    return values, [row for file in files for row in file.to_pylist()]


def test_every_row_is_selected_once_or_counted(ray_cluster, tables, tmp_path):
    values, rows = select(tables, tmp_path)
    expected = {(f"http://h{n % 7}.test/{n}.jpg", f"caption {n}") for n in range(200, NUM_ROWS) if n % 5}
    repeated = {(f"http://h{n % 7}.test/{n}.jpg", f"caption {n}") for n in range(500, 600) if n % 5 == 0}
    own = {(f"http://h{n % 7}.test/{n}.jpg", f"another caption {n}") for n in range(500, 600)}
    own.add(("http://own.test/1.jpg", "owned"))
    found = {(row["url"], row["caption"]): row["dataset"] for row in rows}
    assert len(found) == len(rows)
    # The first of equal pairs is kept; a pair that the first table's conditions drop comes from the second.
    assert found == dict.fromkeys(expected, "laion400m") | dict.fromkeys(own | repeated, "cc12m")
    assert values["filtered"] == {"similarity>=0.2": 200, "NSFW==UNLIKELY": 160, "duplicate": 80 + 9}
    assert values["rows"] == NUM_ROWS + 210 == values["written"] + sum(values["filtered"].values())
    assert values["datasets"] == {
        "laion400m": {"rows_in": NUM_ROWS, "selected": 640},
        "cc12m": {"rows_in": 210, "selected": 121},
    }


def test_shards_are_alike(ray_cluster, tables, tmp_path):
    values, rows = select(tables, tmp_path)
    sizes = [shard["rows"] for shard in values["shards"]]
    assert len(sizes) == 9 and min(sizes) > 50 and max(sizes) < 130
    numbers = [int(row["url"].rpartition("/")[2][:-4]) for row in rows if row["dataset"] == "laion400m"]
    assert abs(np.corrcoef(numbers, range(len(numbers)))[0, 1]) < 0.1  # no longer in the order of the table


def test_block_lists(ray_cluster, tables, tmp_path):
    (tmp_path / "urls.txt").write_text("http://h1.test/701.jpg\nhttp://nowhere.test/1.jpg\n")
    (tmp_path / "hosts.txt").write_text("h2.test\ntest.com\n")
    digests = [hashlib.md5(str(n).encode()).hexdigest() for n in range(NUM_ROWS)]
    table = pq.read_table(tables[0].table).append_column("md5", pa.array(digests))
    pq.write_table(table, tmp_path / "with_md5.parquet")
    (tmp_path / "md5.txt").write_text("\n".join(digests[300:310]) + "\n")
    source = SourceConfig(str(tmp_path / "with_md5.parquet"), "a", url="URL", caption=("TEXT",), md5="md5")
    lists = {f"block_{name}": (str(tmp_path / f"{name}.txt"),) for name in ("urls", "hosts", "md5")}
    values, rows = select([source], tmp_path, **lists)
    hosts = Counter(row["url"].split("/")[2] for row in rows)
    assert "h2.test" not in hosts and len(hosts) == 6
    on_h2 = sum(n % 7 == 2 for n in range(NUM_ROWS))
    md5 = sum(n % 7 != 2 for n in range(300, 310))
    assert values["filtered"] == {"blocked_url": 1, "blocked_host": on_h2, "blocked_md5": md5}
    assert len(rows) == NUM_ROWS - 1 - on_h2 - md5


@pytest.mark.parametrize("name", ["block_urls", "block_hosts", "block_md5"])
def test_a_block_list_that_changes_is_noticed(tables, tmp_path, name):
    file = tmp_path / "list.txt"
    file.write_text("h1.test\n")
    lists = SelectConfig(**{name: (str(file),)})
    before = select_urls.describe([(table, table_files.find_files(table)) for table in tables], lists)
    assert not select_urls.has_changed(before, tables, lists)
    assert select_urls.has_changed(before, tables, SelectConfig())
    assert select_urls.has_changed(before, tables[::-1], lists)
    file.write_text("h2.test\n")
    assert select_urls.has_changed(before, tables, lists)


def test_the_same_shards_however_the_work_is_split(ray_cluster, tables, tmp_path, monkeypatch):
    whole, _ = select(tables, tmp_path / "whole")
    pieces = [tables[1], *(tables[:1])]
    for name, value in (("RUN_ROWS", 100), ("TASK_ROWS", 150)):
        monkeypatch.setattr(select_urls, name, value)
    monkeypatch.setattr(url_table, "PART_ROWS", 100)
    assert len(url_table.split(tables[0], table_files.find_files(tables[0]))) > 5
    split, _ = select(tables, tmp_path / "split")
    assert split["shards"] == whole["shards"]
    other, _ = select(pieces, tmp_path / "other")  # another order of the tables: another data set keeps the pair
    assert [shard["rows"] for shard in other["shards"]] == [shard["rows"] for shard in whole["shards"]]
    assert other["datasets"]["cc12m"]["selected"] == 201


def test_a_killed_run_resumes_and_repeats_nothing(ray_cluster, tables, tmp_path, monkeypatch):
    whole, _ = select(tables, tmp_path / "whole")
    monkeypatch.setattr(select_urls.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # in the driver alone, after all the work of the tasks
        select_urls.run(
            tables, SelectConfig(), 100, blocked=NOTHING_BLOCKED, work=tmp_path / "work", folder=tmp_path / "urls"
        )
    monkeypatch.undo()
    left = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").glob("*/*.npy")}
    assert left
    stopped = manifest.fingerprint(whole["shards"])
    seen = []
    monkeypatch.setattr(select_urls.shutil, "rmtree", lambda folder: seen.append(Path(folder)))
    values = select_urls.run(
        tables, SelectConfig(), 100, blocked=NOTHING_BLOCKED, work=tmp_path / "work", folder=tmp_path / "urls"
    )
    assert manifest.fingerprint(values["shards"]) == stopped
    assert seen == [tmp_path / "work"]
    assert left == {file: file.stat().st_mtime_ns for file in (tmp_path / "work").glob("*/*.npy")}


# Select on a small Ray of its own, split into so many pieces that a kill comes in between. Arguments: table, folder.
SELECT = """
import sys
from pathlib import Path
import ray
from emage import config; from emage.data.ingest import url_table as sources
from emage.config import IngestConfig, SelectConfig
from emage.on_ray.ingest import select_urls as selecting
from emage.data.ingest import url_filter

table, folder = sys.argv[1], Path(sys.argv[2])
sources.PART_ROWS = selecting.RUN_ROWS = selecting.TASK_ROWS = 100
ray.init(address="local", num_cpus=2, include_dashboard=False)
settings = config.parse(IngestConfig, ["tiny", f"source.table={table}", f"output={folder}"])
tables, blocked = sources.list_tables(settings), url_filter.read_block_lists((), (), ())
selecting.run(tables, SelectConfig(), 100, blocked=blocked, work=folder / "work", folder=folder / "urls")
"""


def select_elsewhere(table: Path, folder: Path, is_time: Callable[[], bool] = lambda: False) -> int | None:
    """Run SELECT; when `is_time` is true, kill it and its children. Return its exit status, or None if killed."""
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", SELECT, table, folder], start_new_session=True)
    deadline = time.monotonic() + 200
    try:
        while process.poll() is None and not is_time():
            assert time.monotonic() < deadline, "it never got so far"
            time.sleep(0.01)
        return process.returncode
    finally:
        with suppress(ProcessLookupError):  # it has ended, and all its processes too
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.faults
def test_a_select_that_is_killed_resumes_with_the_same_shards(tmp_path):
    """The process is killed at the first sorted run; then the same call resumes."""
    table, whole, killed = (tmp_path / name for name in ("urls.parquet", "whole", "killed"))
    i = np.arange(5_000) % 2_500  # 50 parts, every pair twice
    pairs = {"url": [f"http://a.test/{n}" for n in i], "caption": [f"caption {n}" for n in i]}
    pq.write_table(pa.table(pairs), table, row_group_size=100)
    assert select_elsewhere(table, killed, lambda: any((killed / "work").glob("*/*.npy"))) is None
    assert any((killed / "work").glob("*/*.npy")) and not (killed / "urls").exists()
    assert select_elsewhere(table, killed) == select_elsewhere(table, whole) == 0
    assert not (killed / "work").exists()
    shards = [{file.name: manifest.sha256(file) for file in (folder / "urls").iterdir()} for folder in (whole, killed)]
    assert shards[0] == shards[1] and len(shards[0]) == 1 + 50
    values = select_urls.finished(killed / "urls")
    assert values is not None and values["written"] == 2_500


def test_nothing_left(ray_cluster, tables, tmp_path):
    nothing = config.preset(
        IngestConfig, "laion400m", output="", source={"table": tables[0].table, "where": ["similarity>2"]}
    ).source
    with pytest.raises(InputError, match="no row is left to download: all 1000 were filtered"):
        select_urls.run(
            [nothing], SelectConfig(), 100, blocked=NOTHING_BLOCKED, work=tmp_path / "work", folder=tmp_path / "urls"
        )
    assert not (tmp_path / "urls").exists()


def test_hashes_that_collide_are_not_duplicates():
    urls, captions = ["a", "b", "a", "b", "c", "c"], ["1", "1", "1", "2", "3", "3"]
    rows = pa.table([urls, captions, ["x"] * 6, [None] * 6], schema=schema.URL_SCHEMA)
    order = np.array([5, 5, 5, 5, 9, 10], np.uint64)
    assert select_tasks.first_of_equal(rows, order).tolist() == [True, True, False, True, True, True]


def test_rows_that_cannot_be_read_are_counted(ray_cluster, tmp_path):
    (tmp_path / "t.tsv").write_text(
        "url\tcaption\nhttp://a.test/1\ta\nhttp://a.test/2\tb\ttoo much\nhttp://a.test/3\tc\n"
    )
    values, rows = select([SourceConfig(str(tmp_path / "t.tsv"), "a")], tmp_path)
    assert values["filtered"] == {"bad_row": 1} and values["rows"] == 3 and values["miscounted"] == []
    assert sorted(row["caption"] for row in rows) == ["a", "c"]


def test_rows_that_another_count_does_not_find_are_said(ray_cluster, tmp_path):
    """The quote of row 1 is closed by the inch mark of row 3: a count of lines takes them for one row."""
    folder = tmp_path / "t"
    folder.mkdir()
    captions = ["a", '"wide', "b", 'of 24"', "c"]
    (folder / "inch.csv").write_text(
        "url,caption\n" + "".join(f"http://a.test/{n},{caption}\n" for n, caption in enumerate(captions))
    )
    (folder / "good.tsv").write_text("url\tcaption\nhttp://a.test/5\td\n")
    (folder / "_old.csv").write_text("url,caption\n")
    values, rows = select([SourceConfig(str(folder), "shop")], tmp_path)
    assert values["filtered"] == {"bad_row": 1} and values["rows"] == 6
    assert values["miscounted"] == [{"dataset": "shop", "file": "inch.csv", "read": 5, "counted": 3}]
    assert values["source"]["passed_over"] == [
        f"{folder}: 1 files of this folder are not read (1 hidden: the name, or a folder's, begins with . or _)"
    ]
    assert sorted(row["caption"] for row in rows) == ["a", "b", "c", "d", 'of 24"']


def test_a_pair_that_repeats_is_kept_once_in_each_run(ray_cluster, tmp_path, monkeypatch):
    monkeypatch.setattr(select_urls, "RUN_ROWS", 100)
    columns = {"url": ["http://a.test/1"] * 5_000 + ["http://a.test/2"], "caption": ["a fox"] * 5_001}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=50)
    values, rows = select([SourceConfig(str(tmp_path / "t.parquet"), "a")], tmp_path)
    assert values["rows"] == 5_001 and values["filtered"] == {"duplicate": 4_999}
    assert sorted(row["url"] for row in rows) == ["http://a.test/1", "http://a.test/2"]
