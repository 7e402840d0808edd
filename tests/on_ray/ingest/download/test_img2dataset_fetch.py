"""Rows through img2dataset's Downloader, without Ray: the success rate, blocked images."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
import web
from small_download import CONFIG, GREY

from emage.data import schema
from emage.on_ray.ingest.download import img2dataset_fetch
from emage.utils.errors import InputError


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


def _rows_schema() -> pa.Schema:
    return pa.schema([item for item in schema.DROPPED_SCHEMA if item.name != "cause"])
