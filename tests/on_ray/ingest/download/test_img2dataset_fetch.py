"""Rows through img2dataset's Downloader, without Ray: the success rate, blocked images."""

import gzip
import hashlib
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import web
from small_download import CONFIG, GREY

from emage.data import schema
from emage.on_ray.ingest.download import img2dataset_fetch
from emage.utils.errors import InputError

TESTS = Path(__file__).parents[3]


def test_an_empty_block_list_blocks_nothing():
    assert not img2dataset_fetch.is_blocked(b"a", np.array([], np.uint64))


def test_the_rate_is_that_of_the_last_rows(site, tmp_path, monkeypatch):
    """A good start does not hide later failures, and the rows after the stop are not downloaded."""
    monkeypatch.setattr(img2dataset_fetch, "WINDOW_ROWS", 20)
    pages, address = site
    requested = Counter[str]()
    pages["/a.png"] = GREY
    pages["/gone"] = lambda handler: (requested.update(["gone"]), web.answer(b"", 404)(handler))[0]  # type: ignore[operator]
    urls = [f"{address}/a.png"] * 30 + [f"{address}/gone"] * 300
    rows = pa.table([[str(i) for i in range(330)], ["web"] * 330, urls, urls], schema=_rows_schema())
    with pytest.raises(InputError, match=r"^[0-9] of 20 images arrived"):
        img2dataset_fetch.fetch_rows(0, rows, tmp_path, CONFIG, None, min_success_rate=0.5)
    assert requested["gone"] < 100
    outcome = img2dataset_fetch.fetch_rows(0, rows, tmp_path, CONFIG, None, min_success_rate=0.0)
    assert (outcome.datasets, outcome.failed) == ({"web": 30}, {"http_404": 300})


def test_opt_outs_are_respected_as_search_engines_read_them(site, tmp_path):
    """img2dataset's own reader of the header ends at the first colon."""
    pages, address = site
    pages |= {
        "/mine": web.answer(GREY, X_Robots_Tag="max-image-preview:large, noai"),
        "/named": web.answer(GREY, X_Robots_Tag="mybot: noindex, nofollow"),
        "/others": web.answer(GREY, X_Robots_Tag="googlebot: noindex, nofollow"),
    }
    urls = [address + path for path in pages]
    rows = pa.table([["0", "1", "2"], ["web"] * 3, urls, urls], schema=_rows_schema())
    config = replace(CONFIG, user_agent_token="MyBot")
    outcome = img2dataset_fetch.fetch_rows(0, rows, tmp_path, config, None, min_success_rate=0.0)
    assert (outcome.datasets, outcome.failed) == ({"web": 1}, {"opted_out": 2})


def test_large_bodies_give_their_memory_back(site, tmp_path, monkeypatch):
    """With a budget for one of them at a time, all are downloaded, whatever becomes of each."""
    pages, address = site
    noise = random.Random(0).randbytes(3 << 20)
    image = GREY + noise  # the decoder ends before it
    pages |= {"/image": image, "/noise": noise, "/blocked": b"x" + noise}
    blocked = np.array([int(hashlib.md5(b"x" + noise).hexdigest()[:16], 16)], np.uint64)
    monkeypatch.setattr(img2dataset_fetch, "BODY_BYTES", 0)
    config = replace(CONFIG, max_bytes=4 << 20, timeout_s=60.0)
    urls = [address + path for path in pages] * 8
    rows = pa.table([[f"{i:02d}" for i in range(24)], ["web"] * 24, urls, urls], schema=_rows_schema())
    outcome = img2dataset_fetch.fetch_rows(0, rows, tmp_path, config, blocked, min_success_rate=0.0)
    assert (outcome.datasets, outcome.failed) == ({"web": 8}, {"not_an_image": 8, "blocked_md5": 8})


PEAK = """
import resource, sys, tempfile
from dataclasses import replace
from pathlib import Path
import pyarrow as pa
from small_download import CONFIG
from emage.data import schema
from emage.on_ray.ingest.download import img2dataset_fetch

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

config = replace(CONFIG, max_bytes=20_000_000, threads=64, timeout_s=120.0)
columns = [[f"{i:03d}" for i in range(150)], ["web"] * 150, [sys.argv[1]] * 150, [""] * 150]
rows = pa.table(columns, schema=pa.schema([item for item in schema.DROPPED_SCHEMA if item.name != "cause"]))
before = peak()
for _ in range(2):
    with tempfile.TemporaryDirectory() as folder:
        counts = img2dataset_fetch.fetch_rows(0, rows, Path(folder), config, None, min_success_rate=0.0)
assert counts.failed == {"not_an_image": 150}, counts
print(peak() - before)
"""


@pytest.mark.faults
def test_the_memory_of_a_shard_is_bounded_by_bytes(site):
    """Each of 64 threads receives 20 kB that become 20 MB: more than 1 GB without a limit."""
    pages, address = site
    pages["/a"] = web.answer(gzip.compress(bytes(19_999_000)), Content_Encoding="gzip")
    folders = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    command = [sys.executable, "-c", PEAK, address + "/a"]
    run = subprocess.run(command, env=os.environ | {"PYTHONPATH": folders}, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 800  # MB: 500 of the budget, and 1 for each body that is not counted


def _rows_schema() -> pa.Schema:
    return pa.schema([item for item in schema.DROPPED_SCHEMA if item.name != "cause"])
