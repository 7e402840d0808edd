"""URL tables in every format give the same pairs; what is wrong with a table is one line that says where."""

import csv
import gzip
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emage import config
from emage.config import SourceConfig
from emage.data.ingest import url_table
from emage.utils.errors import InputError

PAIR = pa.schema([("url", pa.string()), ("caption", pa.string())])
ROWS = [
    ("http://a.test/1.jpg", "a red bus"),
    ("http://a.test/2.jpg", 'a "quoted" word, and a comma'),
    ("http://a.test/3.jpg", ""),
    ("http://a.test/4.jpg", "öäü ☃ null"),
    ("http://a.test/5.jpg", "12"),
]


def pairs(source: SourceConfig) -> list[tuple[str, str]]:
    batches = list(url_table.read(source))
    assert all(len(batch) and batch.schema == PAIR for batch in batches)
    return [(row["url"], row["caption"]) for batch in batches for row in batch.to_pylist()]


def write_csv(path: Path, rows: list[tuple[str, ...]], delimiter: str = ",") -> Path:
    quoting = {"quoting": csv.QUOTE_NONE, "quotechar": None} if delimiter == "\t" else {}
    with open(path, "w", newline="") as file:
        csv.writer(file, delimiter=delimiter, lineterminator="\n", **quoting).writerows(rows)
    return path


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_parquet(
    path: Path, rows: list[tuple[str | None, str | None]], names: tuple[str, str] = ("url", "caption")
) -> Path:
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    pq.write_table(pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()}), path)
    return path


def test_every_format_gives_the_same_pairs(tmp_path):
    header = [("url", "caption")]
    objects = [{"url": url, "caption": caption, "extra": i if i % 2 else "x"} for i, (url, caption) in enumerate(ROWS)]
    files = [
        write_parquet(tmp_path / "t.parquet", ROWS),
        write_csv(tmp_path / "t.csv", header + ROWS),
        write_csv(tmp_path / "t.tsv", header + ROWS, "\t"),
        write_jsonl(tmp_path / "t.jsonl", objects),
    ]
    (tmp_path / "z.csv.gz").write_bytes(gzip.compress((tmp_path / "t.csv").read_bytes()))
    for file in [*files, tmp_path / "z.csv.gz"]:
        assert pairs(SourceConfig(table=str(file))) == ROWS, file
    assert [url_table.count(SourceConfig(table=str(file))) for file in files] == [5] * 4


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    folder = tmp_path / "part" / "deep"
    folder.mkdir(parents=True)
    write_parquet(tmp_path / "part" / "1.parquet", ROWS[3:])
    write_csv(tmp_path / "part" / "0.csv", [("url", "caption"), *ROWS[:1]])
    write_parquet(folder / "0.parquet", ROWS[1:3])
    (tmp_path / "part" / "_SUCCESS.csv").write_text("")
    source = SourceConfig(table=str(tmp_path / "part"))
    assert pairs(source) == [ROWS[0], *ROWS[3:], *ROWS[1:3]]
    assert pairs(SourceConfig(table=str(tmp_path / "part"), format="csv")) == ROWS[:1]
    assert [name for name, _ in url_table.describe(source)] == ["0.csv", "1.parquet", "0.parquet"]


@pytest.mark.parametrize(("name", "order"), [("cc12m", (0, 1)), ("cc3m", (1, 0))])
def test_published_tables_without_header(tmp_path, name, order):
    file = write_csv(tmp_path / "published.tsv", [(row[order[0]], row[order[1]]) for row in ROWS], "\t")
    source = config.preset(config.IngestConfig, name, output="o", source={"table": str(file)}).source
    assert pairs(source) == ROWS
    assert url_table.count(source) == 5


def test_laion_and_yfcc_columns(tmp_path):
    laion = write_parquet(tmp_path / "laion.parquet", ROWS, ("URL", "TEXT"))
    source = config.preset(config.IngestConfig, "laion400m", output="o", source={"table": str(laion)}).source
    assert pairs(source) == ROWS
    yfcc = write_csv(
        tmp_path / "yfcc.csv",
        [
            ("photo_url", "title", "description"),
            ("http://a.test/1.jpg", "Red+bus", "at%20night"),
            ("http://a.test/2.jpg", "", "caf%C3%A9"),
        ],
    )
    source = config.preset(config.IngestConfig, "yfcc100m", output="o", source={"table": str(yfcc)}).source
    assert [caption for _, caption in pairs(source)] == ["Red bus at night", "café"]


def test_nulls_stay_countable_rows(tmp_path):
    file = write_parquet(tmp_path / "t.parquet", [("http://a.test/1.jpg", None), (None, "a bus")])
    assert pairs(SourceConfig(table=str(file))) == [("http://a.test/1.jpg", ""), (None, "a bus")]


def test_columns_that_conditions_ask_for(tmp_path):
    """As numbers where a condition compares numbers, whatever the format; as text otherwise."""
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
        holds = [condition.holds(batch[f"meta.{condition.column}"]) for condition in url_table.conditions(source)]
        assert [mask.to_pylist() for mask in holds] == [[True, False, False], [True, False, True]]
        assert "did you mean similarity?" in message(replace(source, where=("simlarity>=0.2",)))
        assert "no column 'hash' (source.md5)" in message(replace(source, md5="hash"))
        assert "'nsfw' holds no numbers (source.where: nsfw>1)" in message(replace(source, where=("nsfw>1",)))


def test_a_bad_row_of_text_costs_itself_alone(tmp_path):
    lines = [b"url\tcaption", b"u1\tc1", b"u2\tc\t2", b"u3", b"u4\tcaf\xe9 \xff", b"u5\t"]
    good = [("u1", "c1"), ("u4", "caf\ufffd \ufffd"), ("u5", "")]
    (tmp_path / "t.tsv").write_bytes(b"\n".join(lines))
    (tmp_path / "t.csv").write_bytes(b"\n".join(lines).replace(b"\t", b","))
    (tmp_path / "none.tsv").write_bytes(b"\n".join(lines[1:]))
    (tmp_path / "t.tsv.gz").write_bytes(gzip.compress(b"\n".join(lines)))
    for file, settings in (("t.tsv", {}), ("t.csv", {}), ("t.tsv.gz", {}), ("none.tsv", {"names": ("url", "caption")})):
        source, bad = SourceConfig(str(tmp_path / file), **settings), Counter()
        url_table.check(source)
        rows = [(row["url"], row["caption"]) for batch in url_table.read(source, bad=bad) for row in batch.to_pylist()]
        assert rows == good == pairs(source)
        assert bad == {"bad_row": 2} and url_table.count(source) == 5
    (tmp_path / "t.tsv").write_bytes(b"url\tcaption\nu1\tc\t1\n")
    assert "no row has as many columns as there are names" in message(SourceConfig(str(tmp_path / "t.tsv")))


def test_bad_rows_are_counted_in_every_block(tmp_path, monkeypatch):
    """The first block is opened twice; its rows count once."""
    monkeypatch.setattr(url_table, "BLOCK", 1000)
    write_csv(tmp_path / "t.csv", [("url", "caption"), *[("u", "c"), ("u", "c", "d")] * 500])
    source, bad = SourceConfig(str(tmp_path / "t.csv")), Counter()
    assert sum(map(len, url_table.read(source, bad=bad))) == 500
    assert bad == {"bad_row": 500}


def test_jsonl_whose_types_change(tmp_path):
    lines = [
        '{"url": "u1", "caption": "c1", "score": 0.5, "nsfw": false}',
        '{"url": "u2", "caption": 12, "score": "0.3", "nsfw": "false"}',
        '{"url": "u3", "caption": null, "score": "n/a", "nsfw": [1]}',
        "",
        '{"url": "u4", "caption": "half \\ud800", "score": true}',
        '{"url": "u5"',
        "[1, 2]",
        "[" * 100_000,
        '{"score": NaN}',
    ]
    (tmp_path / "t.jsonl").write_bytes(("\ufeff" + "\n".join(lines)).encode().replace(b"c1", b"c\xff"))
    source, bad = SourceConfig(str(tmp_path / "t.jsonl"), where=("score>=0.2", "nsfw==false")), Counter()
    url_table.check(source)
    (batch,) = url_table.read(source, bad=bad)
    assert batch["url"].to_pylist() == ["u1", "u2", "u3", "u4", None]
    assert batch["caption"].to_pylist() == ["c\ufffd", "12", "", "half ?", ""]
    score, nsfw = (condition.holds(batch[f"meta.{condition.column}"]) for condition in url_table.conditions(source))
    assert score.to_pylist() == nsfw.to_pylist() == [True, True, False, False, False]
    assert bad == {"bad_row": 3}


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
    assert pairs(source) == [("u1", "a \ufffd"), ("u2", "b")]
    for where in ("score>=0.2", "score==0.5", "score!=n/a", "width>=1", "raw>=0.2", "when==1970-01-01 00:00:00.000000"):
        chosen = replace(source, where=(where,))
        url_table.check(chosen)
        (batch,), (condition,) = url_table.read(chosen), url_table.conditions(chosen)
        assert condition.holds(batch[f"meta.{condition.column}"]).to_pylist() == [True, False], where
    text = message(replace(source, where=("when>=2020",)))
    assert "'when' holds timestamp[us], which cannot be compared (source.where: when>=2020)" in text
    assert "'tags' holds list<" in message(replace(source, where=("tags==a",)))


def test_a_column_that_begins_with_missing_values_is_no_error(tmp_path):
    rows = [("u", "c", "")] * 20_000 + [("u", "c", "0.5")]
    write_csv(tmp_path / "t.csv", [("url", "caption", "score"), *rows])
    table = {"url": ["u"] * 20_001, "caption": ["c"] * 20_001, "score": [None] * 20_000 + [0.5]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    for file in ("t.csv", "t.parquet"):
        source = SourceConfig(str(tmp_path / file), where=("score>=0.2",))
        url_table.check(source)
        (condition,) = url_table.conditions(source)
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
    parts = url_table.parts(source)
    assert [part.groups for part in parts] == [(0, 1), (2, 3), (4, 5), (6,), None]
    cut = [row for part in parts for batch in url_table.read(source, part) for row in batch.to_pylist()]
    assert cut == [row for batch in url_table.read(source) for row in batch.to_pylist()]
    assert len(cut) == 12


def ingest(*arguments: str) -> config.IngestConfig:
    return config.parse(config.IngestConfig, ["laion400m", "source.table=t.parquet", "output=o", *arguments])


def test_several_tables_each_with_its_own_columns(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = ingest("more.cc12m.table=c.tsv", "more.own.table=o.csv", "more.own.url=link", "source.where=[a>1]")
    laion, cc12m, own = url_table.all_of(settings)
    assert (laion.dataset, laion.url, laion.where) == ("laion400m", "URL", ("a>1",))
    assert (cc12m.dataset, cc12m.names, cc12m.where) == ("cc12m", ("url", "caption"), ())
    assert (own.dataset, own.url, own.caption) == ("own", "link", ("caption",))
    assert config.from_yaml(config.IngestConfig, config.to_yaml(settings)) == settings
    assert [source.table for source in (laion, cc12m)] == [str(tmp_path / "t.parquet"), str(tmp_path / "c.tsv")]
    (stored,) = url_table.all_of(ingest("source.table=s3://bucket/t.parquet"))
    assert stored.table == "s3://bucket/t.parquet"


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        ("more.cc12m=c.tsv", "say more.cc12m.table="),
        ("more.cc12m.url=u", "say more.cc12m.table="),
        ("more.laion400m.table=c.tsv", "two tables are called 'laion400m'"),
    ],
)
def test_further_tables_that_make_no_sense(argument, text):
    with pytest.raises(InputError, match=text):
        url_table.all_of(ingest(argument))
    with pytest.raises(InputError, match=r"^more\.own\.tabel: "):
        url_table.all_of(ingest("more.own.table=c.tsv", "more.own.tabel=c.tsv"))
    with pytest.raises(InputError, match=r"^more\.own\.caption: this is a list; write it as \[text\]$"):
        url_table.all_of(ingest("more.own.table=c.tsv", "more.own.caption=text"))


def message(source: SourceConfig) -> str:
    with pytest.raises(InputError) as error:
        url_table.check(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_columns_are_named_with_what_there_is(tmp_path):
    for file in (
        write_parquet(tmp_path / "t.parquet", ROWS, ("URL", "caption")),
        write_csv(tmp_path / "t.csv", [("URL", "caption"), *ROWS]),
        write_jsonl(tmp_path / "t.jsonl", [{"URL": "u", "caption": "c"}]),
    ):
        text = message(SourceConfig(table=str(file)))
        assert "no column 'url' (source.url); did you mean URL?" in text
        assert "(it has: URL, caption)" in text
    text = message(SourceConfig(table=str(tmp_path / "t.csv"), url="URL", caption=("captoin",)))
    assert "no column 'captoin' (source.caption); did you mean caption?" in text


def test_tables_that_cannot_be_read(tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    header = write_csv(tmp_path / "header.csv", [("url", "caption")])
    garbage = tmp_path / "garbage.parquet"
    garbage.write_bytes(b"PAR1 but not really")
    open_quote = tmp_path / "quote.csv"
    open_quote.write_text('url,caption\nu,"' + "c\n" * url_table.BLOCK)
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(b"url,caption\nu,c\n" * 1000)[:-9])
    list_json = tmp_path / "list.jsonl"
    list_json.write_text("[1, 2]\n")
    deep_json = tmp_path / "deep.jsonl"
    deep_json.write_text("[" * 100_000)
    strange = tmp_path / "table.xlsx"
    strange.write_bytes(b"PK")
    (tmp_path / "none").mkdir()
    assert "no such file or folder" in message(SourceConfig(table=str(tmp_path / "absent.parquet")))
    assert "the table has no rows" in message(SourceConfig(table=str(empty)))
    assert "the table has no rows" in message(SourceConfig(table=str(header)))
    assert "not a readable parquet file" in message(SourceConfig(table=str(garbage)))
    assert "not a readable csv file" in message(SourceConfig(table=str(open_quote)))
    assert "no JSON object" in message(SourceConfig(table=str(list_json)))
    assert "no JSON object" in message(SourceConfig(table=str(deep_json)))
    assert "source.format=" in message(SourceConfig(table=str(strange)))
    assert "no csv, jsonl, parquet, tsv files in this folder" in message(SourceConfig(table=str(tmp_path / "none")))
    assert "not a readable parquet file" in message(SourceConfig(table=str(header), format="parquet"))
    for file, format in ((garbage, "parquet"), (cut, "csv")):
        with pytest.raises(InputError, match=f"{file.name}: not a readable {format} file"):
            url_table.count(SourceConfig(table=str(file)))


def test_real_laion_rows(real_data):
    source = config.preset(
        config.IngestConfig, "laion400m", output="o", source={"table": str(real_data / "laion_urls_10k.parquet")}
    ).source
    found = pairs(source)
    assert len(found) == 10_000 == url_table.count(source)
    assert [url for url, _ in found if not url.startswith("http")] == ["UNLIKELY"]  # the fetch counts it as bad_scheme
