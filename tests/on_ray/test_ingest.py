"""The whole ingest over loopback: every row is accounted for under its cause, and the bytes do not depend on luck."""

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import web
from filelock import FileLock
from PIL import Image
from web import encode

from emage import config, manifest, schema, shapes, tokenizers
from emage.config import IngestConfig
from emage.errors import InputError
from emage.on_ray import batches, download, ingest, shuffle, tokenizing, tracking

pytestmark = pytest.mark.ray

NUM_GOOD = 260
NUM_WRITTEN = NUM_GOOD + 1 + 3 + 1  # turned, odd, again
ODD = {"grey": "L", "see-through": "RGBA", "print": "CMYK"}
FILTERED = {"duplicate": 2 + 1, "score>0.5": 1}
FAILED = {  # cause -> rows; what each row is, is in `_table`
    "http_404": 12,
    "not_an_image": 2,
    "truncated": 2,
    "too_small": 2,
    "bad_scheme": 2,
    "timeout": 2,
    "too_big": 1,
    "opted_out": 1,
    "too_many_pixels": 1,
    "no_url": 1,
    "connection_error": 1,
}


def _more(pages: dict[str, web.Page], address: str) -> list[tuple[str, str, float]]:
    """A second table: a pair of the first again, a picture of the first under another URL, one that scores too low."""
    pages["/again.png"] = pages["/0.png"]
    caption = shapes.train_scenes(1, seed=1)[0].caption
    return [
        (f"{address}/0.png", caption, 0.9),
        (f"{address}/again.png", caption, 0.9),
        (f"{address}/1.png", "a caption of nothing that is there", 0.1),
    ]


def _table(pages: dict[str, web.Page], address: str) -> list[tuple[str | None, str]]:
    """The pages, and rows of (URL, caption) in which good and bad are mixed."""
    scenes = shapes.train_scenes(NUM_GOOD, seed=1)
    images = [Image.fromarray(pixels) for pixels in shapes.draw_many(scenes, seed=1)]
    rows: list[tuple[str | None, str]] = []
    for i, (scene, image) in enumerate(zip(scenes, images, strict=True)):
        pages[f"/{i}.png"] = encode(image)
        rows.append((f"{address}/{i}.png", scene.caption))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pages["/turned.jpg"] = encode(images[0].rotate(180), "JPEG", exif=exif, quality=95, subsampling=0)
    rows.append((f"{address}/turned.jpg", scenes[0].caption))
    for name, mode in ODD.items():
        pages[f"/{name}"] = encode(images[1].convert(mode), "JPEG" if mode == "CMYK" else "PNG")
        rows.append((f"{address}/{name}", f"a {name} picture of two shapes"))
    pages |= {
        "/text.jpg": b"<html>this is no picture</html>",
        "/short.jpg": encode(images[2].resize((640, 640)), "JPEG")[:8_000],
        "/small.png": encode(images[3].resize((15, 40))),
        "/huge.png": encode(Image.new("1", (3000, 3000))),
        "/drip.jpg": web.dripping_body,
        "/drip2.jpg": web.dripping_headers,
        "/endless.jpg": web.endless,
        "/mine.png": web.answer(pages["/0.png"], X_Robots_Tag="noai"),  # type: ignore[arg-type]
    }
    bad: list[str | None] = [f"{address}/missing{i}.jpg" for i in range(12)]
    for page in ("text.jpg", "short.jpg", "small.png"):
        bad += [f"{address}/{page}"] * 2
    bad += [f"{address}/{page}" for page in ("huge.png", "drip.jpg", "drip2.jpg", "endless.jpg", "mine.png")]
    bad += ["file:///etc/hostname", "data:image/png;base64,iVBORw0KGgo=", None, "http://127.0.0.1:1/a.jpg"]
    rows += [(url, f"a caption of something bad, number {i}") for i, url in enumerate(bad)]
    rows += [(f"{address}/0.png", "")] * 3
    order = np.random.default_rng(0).permutation(len(rows))
    return [rows[i] for i in order]


@dataclass(frozen=True)
class Ingested:
    settings: IngestConfig
    rows: list[tuple[str | None, str]]
    report: dict

    @property
    def output(self) -> Path:
        return Path(self.settings.output)

    @property
    def tokens(self) -> pa.Table:
        return pq.read_table(self.output / "tokens")

    def bytes(self) -> dict[str, str]:
        return {file.name: manifest.sha256(file) for file in sorted((self.output / "tokens").iterdir())}


@pytest.fixture(scope="module")
def web_site() -> Iterator[tuple[dict[str, web.Page], str]]:
    pages: dict[str, web.Page] = {}
    with web.serving(pages) as address:
        yield pages, address


@pytest.fixture(scope="module")
def ingested(ray_cluster, web_site, tmp_path_factory) -> Ingested:
    folder = tmp_path_factory.mktemp("ingest")
    rows = _table(*web_site)
    columns = {"url": [url for url, _ in rows], "caption": [caption for _, caption in rows]}
    pq.write_table(pa.table(columns), folder / "urls.parquet")
    with open(folder / "more.csv", "w", newline="") as file:
        csv.writer(file).writerows([("link", "text", "score"), *_more(*web_site)])
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
    return Ingested(settings, rows, ingest.ingest(settings))


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


def test_the_table_names_every_cause(ingested, capsys):
    ingest.ingest(ingested.settings)
    printed = capsys.readouterr().out
    for name in (*FAILED, *FILTERED, "empty", "written", "rows in"):
        assert name in printed


def test_failed_rows_keep_their_url_and_cause(ingested):
    shards = [json.loads(file.read_text()) for file in sorted((ingested.output / "shards").glob("*/manifest.json"))]
    files = [ingested.output / "shards" / f"{n:05d}" / shard["failures"] for n, shard in enumerate(shards)]
    failed = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert Counter(row["cause"] for row in failed) == FAILED
    assert {row["cause"] for row in failed if row["url"] == "file:///etc/hostname"} == {"bad_scheme"}


def test_rows_are_the_right_ones_and_unique(ingested):
    rows = ingested.tokens.to_pylist()
    expected = Counter((url, caption) for url, caption in ingested.rows if caption and "bad" not in caption)
    assert Counter((row["url"], row["caption"]) for row in rows if row["dataset"] == "shapes") == expected
    assert [row["url"].rsplit("/", 1)[1] for row in rows if row["dataset"] == "more"] == ["again.png"]
    assert len({row["uid"] for row in rows}) == len({row["key"] for row in rows}) == len(rows)
    assert all(len(row["sha256"]) == 64 and row["width"] >= 64 and row["height"] >= 64 for row in rows)


def test_tokens_decode_back_to_the_pictures(ingested):
    table = ingested.tokens
    ids = torch.tensor(np.stack(table["tokens"].to_numpy()).astype(np.int64))
    decoded = (tokenizers.load("vqgan-demo-f8-512").decode(ids).permute(0, 2, 3, 1) * 255).round().byte().numpy()
    captions = table["caption"].to_pylist()
    right = [
        shapes.check(Image.fromarray(pixels), caption).right
        for pixels, caption in zip(decoded, captions, strict=True)
        if not any(name in caption for name in ODD)
    ]
    assert len(right) == NUM_GOOD + 2  # with the one that EXIF turns, and the one that is there again
    assert np.mean(right) > 0.97


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


def test_the_same_command_again_does_nothing(ingested, monkeypatch):
    for module in (download, tokenizing, shuffle):
        monkeypatch.setattr(module, "run", lambda *_, **__: pytest.fail("a stage ran again"))
    monkeypatch.setattr(tracking, "start", lambda *_, **__: pytest.fail("an MLflow run for nothing"))
    before = ingested.bytes()
    assert ingest.ingest(ingested.settings) == ingested.report
    assert ingested.bytes() == before


def test_an_interrupted_run_goes_on_to_the_same_bytes(ingested, tmp_path):
    """As if killed in the middle of each stage, with other timing the second time."""
    output = tmp_path / "out"
    shutil.copytree(ingested.output, output)
    for name in ("shards/00002", "tokenized/00001", "tokens"):
        shutil.rmtree(output / name)
    for name in ("shards/manifest.json", "tokenized/manifest.json", "ingest_report.json"):
        (output / name).unlink()
    (output / "shards" / ".00002.deadbeef").mkdir()  # what a killed worker leaves
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


def test_shuffle_in_many_runs_and_files_loses_nothing(ingested, tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "RUN_BYTES", 1)  # a run for every shard
    settings = replace(ingested.settings.shuffle, rows_per_file=17)
    shuffle.run(settings, tokenized=ingested.output / "tokenized", work=tmp_path / "work", folder=tmp_path / "tokens")
    other = pq.read_table(tmp_path / "tokens")  # the order is one and the same, however it is cut
    assert other["uid"].to_pylist() == ingested.tokens["uid"].to_pylist()
    assert len(list((tmp_path / "tokens").glob("*.parquet"))) == 16


def test_pictures_that_are_there_twice_are_dropped_if_asked(ingested, tmp_path, monkeypatch):
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


def test_without_the_folders_of_single_shards_a_finished_run_is_still_finished(ingested, tmp_path, monkeypatch):
    """Pictures of 280 million pairs are 12 TB: who has the tokens may delete them."""
    output = tmp_path / "out"
    shutil.copytree(ingested.output, output)
    for folder in (*(output / "shards").glob("[0-9]*"), *(output / "tokenized").glob("[0-9]*")):
        shutil.rmtree(folder)
    for module in (download, tokenizing, shuffle):
        monkeypatch.setattr(module, "run", lambda *_, **__: pytest.fail("a stage ran again"))
    settings = replace(ingested.settings, output=str(output))
    assert ingest.ingest(settings) == ingested.report


@pytest.mark.parametrize("is_within_a_pass", [False, True])
def test_a_stop_between_the_stages_of_a_second_run_is_no_end(ingested, tmp_path, is_within_a_pass):
    """One more pass brings in what the server had failed to give; it is killed before that is tokenized."""
    output = tmp_path / "out"
    shutil.copytree(ingested.output, output)
    settings = replace(
        ingested.settings, output=str(output), download=replace(ingested.settings.download, passes=3), stage="download"
    )
    ingest.ingest(settings)  # nothing new comes; so a row is given back to shard 0 as a later pass does
    shard = output / "shards" / "00000"
    values = manifest.read_json(shard / "manifest.json")
    pictures = pq.read_table(shard / "pictures.parquet")
    pq.write_table(pictures.slice(0, len(pictures) - 1), shard / "pictures.parquet")
    failures = pq.read_table(shard / values["failures"])
    lost = pictures.slice(len(pictures) - 1).select(["key", "dataset", "url", "caption"])
    lost = lost.append_column("cause", pa.array(["http_404"]))
    pq.write_table(pa.concat_tables([failures, lost]), shard / values["failures"])
    dataset = lost["dataset"][0].as_py()
    values["written"] -= 1
    values["datasets"][dataset] -= 1
    values["failed"]["http_404"] = values["failed"].get("http_404", 0) + 1
    values["outputs"]["pictures.parquet"] = manifest.sha256(shard / "pictures.parquet")
    manifest.write_json(shard / "manifest.json", values)
    (output / "shards" / "manifest.json").unlink()
    if not is_within_a_pass:
        download.run(settings.download, output / "urls", output / "shards")
    report = ingest.ingest(replace(settings, stage="all"))
    assert report["written"] == ingested.report["written"] - 1 == len(pq.read_table(output / "tokens"))
    assert report["failed"]["http_404"] == FAILED["http_404"] + 1


def test_two_at_once_on_one_output_are_refused(ingested, tmp_path):
    output = tmp_path / "out"
    shutil.copytree(ingested.output, output)
    shutil.rmtree(output / "tokens")
    with FileLock(output / ".lock"), pytest.raises(InputError, match="another ingest is writing there"):
        ingest.ingest(replace(ingested.settings, output=str(output)))
    assert ingest.ingest(replace(ingested.settings, output=str(output)))["written"] == NUM_WRITTEN


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
def test_numbers_that_make_no_sense_are_refused_before_anything_is_claimed(ingested, tmp_path, group, values):
    settings = replace(ingested.settings, output=str(tmp_path / "out"))
    settings = replace(settings, **{group: replace(getattr(settings, group), **values)})
    with pytest.raises(InputError, match=f"{group}.{next(iter(values))}="):
        ingest.ingest(settings)
    assert not (tmp_path / "out").exists()


def test_other_settings_on_the_same_output_are_refused(ingested):
    with pytest.raises(InputError, match=r"download.image_size=64 \(now 32\)"):
        ingest.ingest(replace(ingested.settings, download=replace(ingested.settings.download, image_size=32)))


def test_a_table_that_changed_is_refused(ingested, tmp_path):
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


def test_a_damaged_picture_costs_itself_alone(ingested, tmp_path):
    shards = tmp_path / "shards"
    shutil.copytree(ingested.output / "shards" / "00000", shards / "00000")
    pictures = pq.read_table(shards / "00000" / "pictures.parquet")
    images = pictures["image"].to_pylist()
    images[3], images[7] = b"no picture", images[7][:900]
    damaged = pictures.set_column(pictures.schema.get_field_index("image"), "image", pa.array(images, pa.binary()))
    pq.write_table(damaged, shards / "00000" / "pictures.parquet")
    reader = batches._Reader(shards, ingested.settings.tokenize, image_size=64)
    *found, last = [row for table in reader(pa.table({"shard": [0]})) for row in table.to_pylist()]
    assert json.loads(last["counts"])["failed"] == {"not_an_image": 1, "truncated": 1}
    keys = [key for row in found for key in pa.ipc.open_stream(row["meta"]).read_all()["key"].to_pylist()]
    whole = pq.read_table(ingested.output / "tokenized" / "00000" / "tokens.parquet")["key"].to_pylist()
    lost = [pictures["key"][place].as_py() for place in (3, 7)]
    assert keys == [key for key in whole if key not in lost]


def test_stages_alone(ingested, tmp_path, monkeypatch):
    """Each stage needs the one before it, and says so; one after the other they do what stage=all does."""
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
    """Stands in for an MLflow run."""

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

    picture = table

    def file(self, path: Path) -> None:
        self.records[Path(path).name] = path


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    table = tmp_path / "urls.csv"
    table.write_text("link,text\nhttp://a.test/1.jpg,a bus\n")
    output = tmp_path / "out"
    command = [sys.executable, "pipelines/ingest.py", "tiny", f"source.table={table}", f"output={output}"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.strip() == f"error: {table}: no column 'url' (source.url) (it has: link, text)"
    assert not output.exists()
