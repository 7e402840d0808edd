"""URL tables in every format give the same pairs; what is wrong with a table is one line that says where."""

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emage import config, sources
from emage.config import SourceConfig
from emage.errors import InputError

ROWS = [
    ("http://a.test/1.jpg", "a red bus"),
    ("http://a.test/2.jpg", 'a "quoted" word, and a comma'),
    ("http://a.test/3.jpg", ""),
    ("http://a.test/4.jpg", "öäü ☃ null"),
    ("http://a.test/5.jpg", "12"),
]


def pairs(source: SourceConfig, rows: int = 2) -> list[tuple[str, str]]:
    tables = list(sources.read(source, rows))
    assert all(len(table) == rows for table in tables[:-1])
    assert all(table.schema == sources.PAIR for table in tables)
    return [(row["url"], row["caption"]) for table in tables for row in table.to_pylist()]


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
    assert [sources.count(SourceConfig(table=str(file))) for file in files] == [5] * 4


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    folder = tmp_path / "part" / "deep"
    folder.mkdir(parents=True)
    write_parquet(tmp_path / "part" / "1.parquet", ROWS[3:])
    write_csv(tmp_path / "part" / "0.csv", [("url", "caption"), *ROWS[:1]])
    write_parquet(folder / "0.parquet", ROWS[1:3])
    (tmp_path / "part" / "_SUCCESS.csv").write_text("")
    source = SourceConfig(table=str(tmp_path / "part"))
    assert pairs(source, 3) == [ROWS[0], *ROWS[3:], *ROWS[1:3]]
    assert pairs(SourceConfig(table=str(tmp_path / "part"), format="csv"), 3) == ROWS[:1]
    assert [name for name, _ in sources.describe(source)] == ["0.csv", "1.parquet", "0.parquet"]


@pytest.mark.parametrize(("name", "order"), [("cc12m", (0, 1)), ("cc3m", (1, 0))])
def test_published_tables_without_header(tmp_path, name, order):
    file = write_csv(tmp_path / "published.tsv", [(row[order[0]], row[order[1]]) for row in ROWS], "\t")
    source = config.preset(config.IngestConfig, name, output="o", source={"table": str(file)}).source
    assert pairs(source) == ROWS
    assert sources.count(source) == 5


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


def message(source: SourceConfig) -> str:
    with pytest.raises(InputError) as error:
        sources.check(source)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_columns_are_named_with_what_there_is(tmp_path):
    for file in (
        write_parquet(tmp_path / "t.parquet", ROWS, ("URL", "caption")),
        write_csv(tmp_path / "t.csv", [("URL", "caption"), *ROWS]),
        write_jsonl(tmp_path / "t.jsonl", [{"URL": "u", "caption": "c"}]),
    ):
        text = message(SourceConfig(table=str(file)))
        assert "no column 'url' (source.url)" in text
        assert "(it has: URL, caption)" in text
    text = message(SourceConfig(table=str(tmp_path / "t.csv"), url="URL", caption=("captoin",)))
    assert "no column 'captoin' (source.caption); did you mean caption?" in text


def test_tables_that_cannot_be_read(tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("")
    header = write_csv(tmp_path / "header.csv", [("url", "caption")])
    garbage = tmp_path / "garbage.parquet"
    garbage.write_bytes(b"PAR1 but not really")
    ragged = write_csv(tmp_path / "ragged.csv", [("url", "caption"), ("u", "c"), ("u", "c", "more")])
    list_json = tmp_path / "list.jsonl"
    list_json.write_text("[1, 2]\n")
    strange = tmp_path / "table.xlsx"
    strange.write_bytes(b"PK")
    (tmp_path / "none").mkdir()
    assert "no such file or folder" in message(SourceConfig(table=str(tmp_path / "absent.parquet")))
    assert "the table has no rows" in message(SourceConfig(table=str(empty)))
    assert "the table has no rows" in message(SourceConfig(table=str(header)))
    assert "not a readable parquet file" in message(SourceConfig(table=str(garbage)))
    assert "not a readable csv file" in message(SourceConfig(table=str(ragged)))
    assert "no JSON object" in message(SourceConfig(table=str(list_json)))
    assert "source.format=" in message(SourceConfig(table=str(strange)))
    assert "no csv, jsonl, parquet, tsv files in this folder" in message(SourceConfig(table=str(tmp_path / "none")))
    assert "not a readable parquet file" in message(SourceConfig(table=str(header), format="parquet"))
    with pytest.raises(InputError, match="not a readable parquet file"):
        sources.count(SourceConfig(table=str(garbage)))


def test_real_laion_rows(real_data):
    source = config.preset(
        config.IngestConfig, "laion400m", output="o", source={"table": str(real_data / "laion_urls_10k.parquet")}
    ).source
    found = pairs(source, 4096)
    assert len(found) == 10_000 == sources.count(source)
    assert [url for url, _ in found if not url.startswith("http")] == ["UNLIKELY"]  # the fetch counts it as bad_scheme
