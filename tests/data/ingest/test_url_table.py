"""URL tables: the columns of published ones, conditions, parts, several tables in one ingest."""

from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from url_tables import ROWS, count_rows, error_of, read_pairs, write_csv, write_jsonl, write_parquet

from emage import config
from emage.config import SourceConfig
from emage.data.ingest import url_table
from emage.data.ingest.tables import table_files
from emage.utils.errors import InputError


@pytest.mark.parametrize(("name", "order"), [("cc12m", (0, 1)), ("cc3m", (1, 0))])
def test_published_tables_without_header(tmp_path, name, order):
    file = write_csv(tmp_path / "published.tsv", [(row[order[0]], row[order[1]]) for row in ROWS], "\t")
    source = config.preset(config.IngestConfig, name, output="o", source={"table": str(file)}).source
    assert read_pairs(source) == ROWS
    assert count_rows(source) == 5


def test_laion_and_yfcc_columns(tmp_path):
    laion = write_parquet(tmp_path / "laion.parquet", ROWS, ("URL", "TEXT"))
    source = config.preset(config.IngestConfig, "laion400m", output="o", source={"table": str(laion)}).source
    assert read_pairs(source) == ROWS
    yfcc = write_csv(
        tmp_path / "yfcc.csv",
        [
            ("photo_url", "title", "description"),
            ("http://a.test/1.jpg", "Red+bus", "at%20night"),
            ("http://a.test/2.jpg", "", "caf%C3%A9"),
        ],
    )
    source = config.preset(config.IngestConfig, "yfcc100m", output="o", source={"table": str(yfcc)}).source
    assert [caption for _, caption in read_pairs(source)] == ["Red bus at night", "café"]


def test_nulls_stay_countable_rows(tmp_path):
    file = write_parquet(tmp_path / "t.parquet", [("http://a.test/1.jpg", None), (None, "a bus")])
    assert read_pairs(SourceConfig(table=str(file))) == [("http://a.test/1.jpg", ""), (None, "a bus")]


def test_columns_that_conditions_need(tmp_path):
    """They are numbers if a condition compares numbers, in every format, and text otherwise."""
    rows = [("u1", "c1", "0.5", "ok", "a" * 32), ("u2", "c2", "", "no", ""), ("u3", "c3", "0.1", "ok", "b" * 32)]
    names = ("url", "caption", "similarity", "nsfw", "md5")
    objects = [dict(zip(names, row, strict=True)) | {"similarity": float(row[2]) if row[2] else None} for row in rows]
    pq.write_table(pa.Table.from_pylist(objects), tmp_path / "t.parquet")
    files = [tmp_path / "t.parquet", write_jsonl(tmp_path / "t.jsonl", objects)]
    files += [write_csv(tmp_path / "t.csv", [names, *rows]), write_csv(tmp_path / "t.tsv", [names, *rows], "\t")]
    for file in files:
        source = SourceConfig(str(file), where=("similarity>=0.2", "nsfw==ok"), md5="md5")
        url_table.check(source)
        (batch,) = url_table.read(source)
        assert batch.schema.names == ["url", "caption", "meta.similarity", "meta.nsfw", "meta.md5"]
        holds = [condition.holds(batch[f"meta.{condition.column}"]) for condition in url_table.parse_conditions(source)]
        assert [mask.to_pylist() for mask in holds] == [[True, False, False], [True, False, True]]
        assert "did you mean similarity?" in error_of(replace(source, where=("simlarity>=0.2",)))
        assert "no column 'hash' (source.md5)" in error_of(replace(source, md5="hash"))
        assert "'nsfw' holds no numbers (source.where: nsfw>1)" in error_of(replace(source, where=("nsfw>1",)))


def test_columns_that_conditions_can_and_cannot_compare(tmp_path):
    columns = {
        "url": ["u1", "u2"],
        "caption": pa.array([b"a \xff", b"b"]),
        "when": pa.array([0, 1], pa.timestamp("us")),
        "score": pa.array(["0.5", "n/a"]).dictionary_encode(),
        "width": pa.array([10, None]).dictionary_encode(),
        "raw": pa.array([b"0.5", b"\xff"]),
        "tags": [["a"], ["b"]],
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    source = SourceConfig(str(tmp_path / "t.parquet"))
    assert read_pairs(source) == [("u1", "a \ufffd"), ("u2", "b")]
    for where in ("score>=0.2", "score==0.5", "score!=n/a", "width>=1", "raw>=0.2", "when==1970-01-01 00:00:00.000000"):
        chosen = replace(source, where=(where,))
        url_table.check(chosen)
        (batch,), (condition,) = url_table.read(chosen), url_table.parse_conditions(chosen)
        assert condition.holds(batch[f"meta.{condition.column}"]).to_pylist() == [True, False], where
    text = error_of(replace(source, where=("when>=2020",)))
    assert "'when' holds timestamp[us], which cannot be compared (source.where: when>=2020)" in text
    assert "'tags' holds list<" in error_of(replace(source, where=("tags==a",)))


def test_a_column_may_begin_with_missing_values(tmp_path):
    rows = [("u", "c", "")] * 20_000 + [("u", "c", "0.5")]
    write_csv(tmp_path / "t.csv", [("url", "caption", "score"), *rows])
    table = {"url": ["u"] * 20_001, "caption": ["c"] * 20_001, "score": [None] * 20_000 + [0.5]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    for file in ("t.csv", "t.parquet"):
        source = SourceConfig(str(tmp_path / file), where=("score>=0.2",))
        url_table.check(source)
        (condition,) = url_table.parse_conditions(source)
        held = [condition.holds(batch["meta.score"]).to_pylist() for batch in url_table.read(source)]
        assert sum(map(sum, held)) == 1


def test_parts_are_the_whole_table(tmp_path, monkeypatch):
    monkeypatch.setattr(url_table, "PART_ROWS", 2)
    folder = tmp_path / "t"
    folder.mkdir()
    columns = {"url": [f"u{i}" for i in range(7)], "caption": ["c"] * 7}
    pq.write_table(pa.table(columns), folder / "0.parquet", row_group_size=1)
    write_csv(folder / "1.csv", [("url", "caption"), *ROWS])
    source = SourceConfig(str(folder))
    files = table_files.find_files(source)
    write_csv(folder / "2.csv", [("url", "caption"), *ROWS])  # later: it belongs to no part
    parts = url_table.split(source, files)
    (folder / "2.csv").unlink()
    assert [part.row_groups for part in parts] == [(0, 1), (2, 3), (4, 5), (6,), None]
    split = [row for part in parts for batch in url_table.read(source, part) for row in batch.to_pylist()]
    assert split == [row for batch in url_table.read(source) for row in batch.to_pylist()]
    assert len(split) == 12


def ingest(*arguments: str) -> config.IngestConfig:
    return config.parse(config.IngestConfig, ["laion400m", "source.table=t.parquet", "output=o", *arguments])


def test_several_tables_each_with_its_own_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ingest("more.cc12m.table=c.tsv", "more.own.table=o.csv", "more.own.url=link", "source.where=[a>1]")
    laion, cc12m, own = url_table.list_tables(settings)
    assert (laion.dataset, laion.url, laion.where) == ("laion400m", "URL", ("a>1",))
    assert (cc12m.dataset, cc12m.names, cc12m.where) == ("cc12m", ("url", "caption"), ())
    assert (own.dataset, own.url, own.caption) == ("own", "link", ("caption",))
    assert config.from_yaml(config.IngestConfig, config.to_yaml(settings)) == settings
    assert [source.table for source in (laion, cc12m)] == [str(tmp_path / "t.parquet"), str(tmp_path / "c.tsv")]
    (stored,) = url_table.list_tables(ingest("source.table=s3://bucket/t.parquet"))
    assert stored.table == "s3://bucket/t.parquet"


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("more.cc12m=c.tsv", "set more.cc12m.table="),
        ("more.cc12m.url=u", "set more.cc12m.table="),
        ("more.laion400m.table=c.tsv", "two tables are called 'laion400m'"),
    ],
)
def test_further_tables_with_mistakes(argument, text):
    with pytest.raises(InputError, match=text):
        url_table.list_tables(ingest(argument))
    with pytest.raises(InputError, match=r"^more\.own\.tabel: "):
        url_table.list_tables(ingest("more.own.table=c.tsv", "more.own.tabel=c.tsv"))
    with pytest.raises(InputError, match=r"^more\.own\.caption: this is a list; write it as \[text\]$"):
        url_table.list_tables(ingest("more.own.table=c.tsv", "more.own.caption=text"))


def test_real_laion_rows(real_data):
    source = config.preset(
        config.IngestConfig, "laion400m", output="o", source={"table": str(real_data / "laion_urls_10k.parquet")}
    ).source
    found = read_pairs(source)
    assert len(found) == 10_000 == count_rows(source)
    assert [url for url, _ in found if not url.startswith("http")] == ["UNLIKELY"]  # the fetch counts it as bad_scheme
