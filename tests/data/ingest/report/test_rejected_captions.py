"""Examples of rejected captions: random, of every rule, from as few shards as possible."""

import shutil
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emage.data.ingest.captions.caption_rules import RULES
from emage.data.ingest.report import rejected_captions
from emage.data.ingest.report.rejected_captions import select_captions
from emage.utils import manifest
from emage.utils.errors import InputError


def write_tokenized(folder: Path, shards: list[dict[str, list[str]]]) -> Path:
    """Write the tokenizing stage's folder, from the captions of each shard by drop reason."""
    counts: Counter[str] = Counter()
    for number, rejected in enumerate(shards):
        rows = [(reason, caption) for reason, texts in rejected.items() for caption in texts]
        counts.update(reason for reason, _ in rows if reason in RULES)
        columns = {"caption": [caption for _, caption in rows], "cause": [reason for reason, _ in rows]}
        shard = folder / f"{number:05d}"
        shard.mkdir(parents=True)
        pq.write_table(pa.table(columns), shard / "rejected.parquet")
        outputs = {"rejected.parquet": manifest.sha256(shard / "rejected.parquet")}
        manifest.write_json(shard / manifest.NAME, {"outputs": outputs})
    (folder / ".00099.deadbeef").mkdir()  # left by a killed worker
    manifest.write_json(folder / "manifest.json", {"rejected": counts})
    return folder


def test_examples_are_random_captions_of_every_rule(tmp_path: Path):
    shards = [
        {"file_name": [f"file-name-{shard}-{i}" for i in range(50)], "truncated": ["an image of a dog"]}
        for shard in range(5)
    ]
    shards[3]["hashtags"] = ["#a #b #c"]
    folder = write_tokenized(tmp_path / "tokenized", shards)
    found = select_captions(folder, seed=1)
    assert {rule: len(texts) for rule, texts in found.items()} == {"file_name": 20, "hashtags": 1}
    assert len(set(found["file_name"])) == 20
    assert found == select_captions(folder, seed=1)
    assert found != select_captions(folder, seed=2)


def test_no_more_shards_are_read_than_needed(tmp_path: Path, monkeypatch):
    shards = [{"url": [f"{shard}"] * 10} for shard in range(30)]
    folder = write_tokenized(tmp_path / "tokenized", shards)
    assert len(set(select_captions(folder, num_per_rule=10)["url"])) == 1  # one shard was enough
    assert len(set(select_captions(folder, num_per_rule=25)["url"])) == 3
    monkeypatch.setattr(rejected_captions, "MAX_SHARDS", 4)
    assert len(select_captions(folder, num_per_rule=100)["url"]) == 40


def test_no_examples_without_shards(tmp_path: Path):
    assert select_captions(tmp_path / "tokenized") == {}
    folder = write_tokenized(tmp_path / "tokenized", [{"url": ["a.test"]}])
    shutil.rmtree(folder / "00000")  # deleted to save space, after the token table was written
    assert select_captions(folder) == {}


def test_a_damaged_shard_is_named(tmp_path: Path):
    folder = write_tokenized(tmp_path / "tokenized", [{"url": ["a.test"]}])
    (folder / "00000" / "rejected.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"00000/rejected\.parquet is damaged"):
        select_captions(folder)
