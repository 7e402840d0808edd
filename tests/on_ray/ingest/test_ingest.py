"""The whole ingest over loopback: every row is counted, and the bytes do not depend on timing."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pairs import FAILED, FILTERED, NUM_GOOD, NUM_WRITTEN, ODD, Ingested
from PIL import Image

from emage import tokenizers
from emage.data import schema, shapes_checker
from emage.on_ray import tracking
from emage.on_ray.ingest import driver as ingest
from emage.on_ray.ingest.tokenize_workers import Reader
from emage.utils import manifest
from emage.utils.errors import InputError

pytestmark = pytest.mark.ray


def test_every_row_is_accounted_for(ingested):
    report = ingested.report
    assert report["rows_in"] == len(ingested.rows) + 3
    assert report["filtered"] == FILTERED
    assert report["failed"] == FAILED
    assert report["rejected"] == {"empty": 1}
    assert report["written"] == NUM_WRITTEN
    assert report["waiting"] == 0
    assert report["rows_in"] == report["written"] + sum(FILTERED.values()) + sum(FAILED.values()) + 1
    assert report["same_content"] == NUM_WRITTEN - len(set(ingested.tokens["sha256"].to_pylist())) >= 1
    rows, bad = len(ingested.rows), sum(FAILED.values())
    assert report["datasets"] == {
        "shapes": {"rows_in": rows, "selected": rows - 2, "arrived": rows - 2 - bad, "written": NUM_WRITTEN - 1},
        "more": {"rows_in": 3, "selected": 1, "arrived": 1, "written": 1},
    }
    assert report == json.loads((ingested.output / "ingest_report.json").read_text())


def test_the_printed_table_names_every_drop_reason(ingested, capsys):
    ingest.ingest(ingested.settings)
    printed = capsys.readouterr().out
    for name in (*FAILED, *FILTERED, "empty", "written", "rows in"):
        assert name in printed


def test_failed_rows_keep_their_url_and_drop_reason(ingested):
    shards = [json.loads(file.read_text()) for file in sorted((ingested.output / "shards").glob("*/manifest.json"))]
    files = [ingested.output / "shards" / f"{n:05d}" / shard["failures"] for n, shard in enumerate(shards)]
    failed = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert Counter(row["cause"] for row in failed) == FAILED
    assert {row["cause"] for row in failed if row["url"] == "file:///etc/hostname"} == {"bad_scheme"}


def test_rows_are_the_expected_ones_and_unique(ingested):
    rows = ingested.tokens.to_pylist()
    expected = Counter((url, caption) for url, caption in ingested.rows if caption and "bad" not in caption)
    assert Counter((row["url"], row["caption"]) for row in rows if row["dataset"] == "shapes") == expected
    assert [row["url"].rsplit("/", 1)[1] for row in rows if row["dataset"] == "more"] == ["again.png"]
    assert len({row["uid"] for row in rows}) == len({row["key"] for row in rows}) == len(rows)
    assert all(len(row["sha256"]) == 64 and row["width"] >= 64 and row["height"] >= 64 for row in rows)


def test_tokens_decode_back_to_the_images(ingested):
    table = ingested.tokens
    ids = torch.tensor(np.stack(table["tokens"].to_numpy()).astype(np.int64))
    decoded = (tokenizers.load("vqgan-demo-f8-512").decode(ids).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    captions = table["caption"].to_pylist()
    correct = [
        shapes_checker.check(Image.fromarray(pixels), caption).all_correct
        for pixels, caption in zip(decoded, captions, strict=True)
        if not any(name in caption for name in ODD)
    ]
    assert len(correct) == NUM_GOOD + 2  # with the one that EXIF turns, and the one that occurs twice
    assert np.mean(correct) > 0.97


def test_layout_of_the_token_table(ingested):
    files, info = schema.open_token_table(str(ingested.output / "tokens"))
    metadata = [pq.read_metadata(file) for file in files]
    assert [data.num_rows for data in metadata] == [88, 88, 89]  # equal, none over rows_per_file
    assert all(data.row_group(0).num_rows == 32 for data in metadata)
    assert pq.read_schema(files[0]).field("tokens").type == pa.list_(pa.uint16(), 64)  # plain Arrow
    tokenizer = tokenizers.load("vqgan-demo-f8-512")
    assert info == schema.TokenizerInfo(tokenizer.name, tokenizer.sha256, 512, (8, 8))
    keys = [int(key) for key in ingested.tokens["key"].to_pylist()]
    assert abs(np.corrcoef(keys, range(len(keys)))[0, 1]) < 0.2  # shuffled


def test_other_readers(ingested):
    files = str(ingested.output / "tokens" / "*.parquet")
    count, lowest, length = duckdb.sql(f"select count(*), min(uid), min(len(tokens)) from '{files}'").fetchall()[0]
    assert (count, length) == (NUM_WRITTEN, 64)
    assert lowest >= 0
    frame = pq.read_table(ingested.output / "tokens").to_pandas()
    assert frame.tokens[0].dtype == np.uint16


@pytest.mark.parametrize(
    ("group", "values"),
    [
        ("download", {"shard_rows": 0}),
        ("download", {"min_success_rate": 5.0}),
        ("download", {"timeout_s": 0.0}),
        ("tokenize", {"batch_size": 0}),
        ("shuffle", {"rows_per_file": 0}),
    ],
)
def test_impossible_numbers_are_rejected_before_anything_is_claimed(ingested, tmp_path, group, values):
    settings = replace(ingested.settings, output=str(tmp_path / "out"))
    settings = replace(settings, **{group: replace(getattr(settings, group), **values)})
    with pytest.raises(InputError, match=f"{group}.{next(iter(values))}="):
        ingest.ingest(settings)
    assert not (tmp_path / "out").exists()


def test_a_damaged_image_is_dropped_alone(ingested, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(ingested.output / "shards" / "00000", shards / "00000")
    shard = pq.read_table(shards / "00000" / "pictures.parquet")
    images = shard["image"].to_pylist()
    largest = max(range(4, len(images)), key=lambda i: len(images[i]))  # the half of a small one would be header alone
    images[3], images[largest] = b"no image", images[largest][: len(images[largest]) // 2]
    damaged = shard.set_column(shard.schema.get_field_index("image"), "image", pa.array(images, pa.binary()))
    pq.write_table(damaged, shards / "00000" / "pictures.parquet")
    values = manifest.read_json(shards / "00000" / "manifest.json")
    values["outputs"]["pictures.parquet"] = manifest.sha256(shards / "00000" / "pictures.parquet")
    manifest.write_json(shards / "00000" / "manifest.json", values)
    reader = Reader(shards, ingested.settings.tokenize, image_size=64)
    *found, last = [row for table in reader(pa.table({"shard": [0]})) for row in table.to_pylist()]
    assert json.loads(last["counts"])["failed"] == {"not_an_image": 1, "truncated": 1}
    keys = [key for row in found for key in pa.ipc.open_stream(row["metadata"]).read_all()["key"].to_pylist()]
    whole = pq.read_table(ingested.output / "tokenized" / "00000" / "tokens.parquet")["key"].to_pylist()
    dropped = [shard["key"][index].as_py() for index in (3, largest)]
    assert keys == [key for key in whole if key not in dropped]


def test_stages_alone(ingested, tmp_path, monkeypatch):
    """A stage needs the one before it, and the error names that; run one by one they give the result of stage=all."""
    output = tmp_path / "out"
    settings = replace(ingested.settings, output=str(output))
    for stage, before in (("tokenize", "download"), ("shuffle", "tokenize")):
        with pytest.raises(InputError, match=f"no finished {before} stage; run stage={before}"):
            ingest.ingest(replace(settings, stage=stage))
    assert not output.exists()
    shutil.copytree(ingested.output, output)
    shutil.rmtree(output / "tokens")
    recorded = {}
    monkeypatch.setattr(tracking, "start", lambda *_, **__: _Recorder(recorded))
    report = ingest.ingest(replace(settings, stage="shuffle"))
    assert Ingested(settings, [], report).bytes() == ingested.bytes()
    assert recorded["metrics"]["written"] == report["written"]
    assert sum(recorded["reconciliation.json"]["rows"]) == report["rows_in"]
    assert recorded["pictures.png"].width > 500 and recorded["ingest_report.png"].width > 500


class _Recorder:
    """A fake MLflow run."""

    def __init__(self, records: dict):
        self.records = records

    def __enter__(self) -> "_Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def metrics(self, values: dict, step: int | None = None) -> None:
        self.records.setdefault("metrics", {}).update(values)

    def table(self, name: str, columns: dict) -> None:
        self.records[name] = columns

    image = table

    def file(self, path: Path) -> None:
        self.records[Path(path).name] = path


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    table = tmp_path / "urls.csv"
    table.write_text("link,text\nhttp://a.test/1.jpg,a bus\n")
    output = tmp_path / "out"
    command = [sys.executable, "pipelines/ingest.py", "tiny", f"source.table={table}", f"output={output}"]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() == f"error: {table}: no column 'url' (source.url) (it has: link, text)"
    assert not output.exists()
