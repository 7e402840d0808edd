"""The shuffle alone: one order however the work is split, and images that occur twice."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from pairs import NUM_WRITTEN

from emage.on_ray.ingest import shuffle

pytestmark = pytest.mark.ray


def test_another_seed_is_another_order_of_the_same_rows(ingested, tmp_path):
    shuffle.run(
        replace(ingested.settings.shuffle, seed=1, rows_per_file=1000),
        tokenized=ingested.output / "tokenized",
        work=tmp_path / "work",
        folder=tmp_path / "tokens",
    )
    other = pq.read_table(tmp_path / "tokens")
    assert other["uid"].to_pylist() != ingested.tokens["uid"].to_pylist()
    assert other.sort_by("uid").equals(ingested.tokens.sort_by("uid"))
    assert not (tmp_path / "work").exists()


def test_shuffle_in_many_runs_and_files_drops_nothing(ingested, tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "RUN_BYTES", 1)  # a sorted run for every shard
    settings = replace(ingested.settings.shuffle, rows_per_file=17)
    shuffle.run(settings, tokenized=ingested.output / "tokenized", work=tmp_path / "work", folder=tmp_path / "tokens")
    other = pq.read_table(tmp_path / "tokens")  # the order is the same however the work is split
    assert other["uid"].to_pylist() == ingested.tokens["uid"].to_pylist()
    assert len(list((tmp_path / "tokens").glob("*.parquet"))) == 16


def test_images_that_occur_twice_are_dropped_if_wanted(ingested, tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "RUN_BYTES", 1)
    values = shuffle.run(
        replace(ingested.settings.shuffle, drop_same_content=True),
        tokenized=ingested.output / "tokenized",
        work=tmp_path / "work",
        folder=tmp_path / "tokens",
    )
    first: dict[str, int] = {}
    for row in sorted(ingested.tokens.to_pylist(), key=lambda row: row["uid"]):
        first.setdefault(row["sha256"], row["uid"])
    same = NUM_WRITTEN - len(first)
    assert (values["rows"], values["written"], values["filtered"]) == (NUM_WRITTEN, len(first), {"same_content": same})
    assert sorted(pq.read_table(tmp_path / "tokens")["uid"].to_pylist()) == sorted(first.values())
    assert sum(values["datasets"].values()) == len(first)
