"""The same ingest started again: it resumes, does nothing, or is rejected, and the bytes are always the same."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from pairs import FAILED, NUM_WRITTEN, Ingested

from emage.on_ray import tracking
from emage.on_ray.ingest import driver as ingest
from emage.on_ray.ingest import shuffle, tokenize_shards
from emage.on_ray.ingest.download import download_stage
from emage.utils import manifest
from emage.utils.errors import InputError

pytestmark = pytest.mark.ray


def test_the_same_command_again_does_nothing(ingested, monkeypatch):
    for module in (download_stage, tokenize_shards, shuffle):
        monkeypatch.setattr(module, "run", lambda *_, **__: pytest.fail("a stage ran again"))
    monkeypatch.setattr(tracking, "start", lambda *_, **__: pytest.fail("an MLflow run for nothing"))
    before = ingested.bytes()
    assert ingest.ingest(ingested.settings) == ingested.report
    assert ingested.bytes() == before


def test_an_interrupted_run_resumes_with_the_same_bytes(ingested, tmp_path):
    """Each stage was killed in the middle; the second run has other timing."""
    output = tmp_path / "out"
    shutil.copytree(ingested.output, output)
    for name in ("shards/00002", "tokenized/00001", "tokens"):
        shutil.rmtree(output / name)
    for name in ("shards/manifest.json", "tokenized/manifest.json", "ingest_report.json"):
        (output / name).unlink()
    (output / "shards" / ".00002.deadbeef").mkdir()  # left by a killed worker
    kept = (output / "shards" / "00000").stat().st_mtime_ns, (output / "tokenized" / "00000").stat().st_mtime_ns
    settings = replace(
        ingested.settings,
        output=str(output),
        download=replace(ingested.settings.download, threads=3, shards_in_flight=1),
    )
    report = ingest.ingest(settings)
    assert Ingested(settings, [], report).bytes() == ingested.bytes()
    assert kept == (
        (output / "shards" / "00000").stat().st_mtime_ns,
        (output / "tokenized" / "00000").stat().st_mtime_ns,
    )
    assert {key: report[key] for key in ("rows_in", "written", "filtered", "failed", "rejected", "datasets")} == {
        key: ingested.report[key] for key in ("rows_in", "written", "filtered", "failed", "rejected", "datasets")
    }
    assert not list((output / "shards").glob(".*"))


def test_without_the_folders_of_single_shards_a_finished_run_is_still_finished(ingested, tmp_path, monkeypatch):
    """Images of 280 million pairs are 12 TB: they may be deleted once the tokens exist."""
    output = tmp_path / "out"
    shutil.copytree(ingested.output, output)
    for folder in (*(output / "shards").glob("[0-9]*"), *(output / "tokenized").glob("[0-9]*")):
        shutil.rmtree(folder)
    for module in (download_stage, tokenize_shards, shuffle):
        monkeypatch.setattr(module, "run", lambda *_, **__: pytest.fail("a stage ran again"))
    settings = replace(ingested.settings, output=str(output))
    assert ingest.ingest(settings) == ingested.report


@pytest.mark.faults
@pytest.mark.parametrize("is_within_a_round", [False, True])
def test_a_stop_between_the_stages_of_a_second_run(ingested, tmp_path, is_within_a_round):
    """One more round downloads what had failed; the run is killed before that is tokenized."""
    output = tmp_path / "out"
    shutil.copytree(ingested.output, output)
    settings = replace(
        ingested.settings, output=str(output), download=replace(ingested.settings.download, passes=3), stage="download"
    )
    ingest.ingest(settings)  # nothing new arrives; so a row is moved to shard 0's failures, as if before a retry round
    shard = output / "shards" / "00000"
    values = manifest.read_json(shard / "manifest.json")
    images = pq.read_table(shard / "pictures.parquet")
    pq.write_table(images.slice(0, len(images) - 1), shard / "pictures.parquet")
    failures = pq.read_table(shard / values["failures"])
    failed = images.slice(len(images) - 1).select(["key", "dataset", "url", "caption"])
    failed = failed.append_column("cause", pa.array(["http_404"]))
    pq.write_table(pa.concat_tables([failures, failed]), shard / values["failures"])
    dataset = failed["dataset"][0].as_py()
    values["written"] -= 1
    values["datasets"][dataset] -= 1
    values["failed"]["http_404"] = values["failed"].get("http_404", 0) + 1
    values["outputs"] |= {name: manifest.sha256(shard / name) for name in ("pictures.parquet", values["failures"])}
    manifest.write_json(shard / "manifest.json", values)
    (output / "shards" / "manifest.json").unlink()
    if not is_within_a_round:
        download_stage.run(settings.download, output / "urls", output / "shards")
    report = ingest.ingest(replace(settings, stage="all"))
    assert report["written"] == ingested.report["written"] - 1 == len(pq.read_table(output / "tokens"))
    assert report["failed"]["http_404"] == FAILED["http_404"] + 1


def test_two_at_once_on_one_output_are_rejected(ingested, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(ingested.output, output)
    shutil.rmtree(output / "tokens")
    with FileLock(output / ".lock"), pytest.raises(InputError, match="another run is writing there"):
        ingest.ingest(replace(ingested.settings, output=str(output)))
    assert ingest.ingest(replace(ingested.settings, output=str(output)))["written"] == NUM_WRITTEN


def test_other_settings_on_the_same_output_are_rejected(ingested):
    with pytest.raises(InputError, match=r"download.image_size=64 \(now 32\)"):
        ingest.ingest(replace(ingested.settings, download=replace(ingested.settings.download, image_size=32)))


def test_a_table_that_was_edited_in_place_at_the_same_size_is_rejected(ingested):
    table = Path(ingested.settings.more["more"]["table"])
    content = table.read_bytes()
    try:
        os.utime(table, (1, 1))  # another time, the same bytes: a copy, for example
        assert ingest.ingest(ingested.settings) == ingested.report
        assert content.endswith(b"0.1\r\n")
        table.write_bytes(content[:-5] + b"0.7\r\n")
        with pytest.raises(InputError, match="has changed since"):
            ingest.ingest(ingested.settings)
    finally:
        table.write_bytes(content)


def test_a_table_that_changed_is_rejected(ingested, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(ingested.output, output)
    table = tmp_path / "urls.parquet"
    pq.write_table(pa.table({"url": ["http://a.test/1.jpg"], "caption": ["another table"]}), table)
    settings = replace(
        ingested.settings, output=str(output), source=replace(ingested.settings.source, table=str(table))
    )
    run = json.loads((output / "run.json").read_text())
    run["settings"]["source"]["table"] = str(table)
    (output / "run.json").write_text(json.dumps(run))
    with pytest.raises(InputError, match="has changed since"):
        ingest.ingest(settings)
    for file in ("urls/_manifest.json", "shards/manifest.json", "tokens/_manifest.json"):
        (output / file).unlink()  # as if it had been killed before the end
    with pytest.raises(InputError, match="downloaded from other rows"):
        ingest.ingest(settings)
