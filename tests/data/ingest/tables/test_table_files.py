"""The files of a URL table: which ones, in which order."""

import gzip
import os

import pyarrow.dataset
from url_tables import ROWS, error_of, read_pairs, write_csv, write_parquet

from emage.config import SourceConfig
from emage.data.ingest.tables import table_files


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    folder = tmp_path / "part" / "deep"
    folder.mkdir(parents=True)
    write_parquet(tmp_path / "part" / "1.parquet", ROWS[3:])
    write_csv(tmp_path / "part" / "0.csv", [("url", "caption"), *ROWS[:1]])
    write_parquet(folder / "0.parquet", ROWS[1:3])
    (tmp_path / "part" / "_SUCCESS.csv").write_text("")
    source = SourceConfig(table=str(tmp_path / "part"))
    assert read_pairs(source) == [ROWS[0], *ROWS[3:], *ROWS[1:3]]
    assert read_pairs(SourceConfig(table=str(tmp_path / "part"), format="csv")) == ROWS[:1]
    files = table_files.find_files(source)
    assert [files.name_of(file) for file in files.paths] == ["0.csv", "1.parquet", "deep/0.parquet"]


def test_hidden_files_and_folders_are_passed_over_and_said(tmp_path):
    """As pyarrow.dataset and Spark do: what notebooks and unfinished jobs leave is no part of the table."""
    names = ["good.parquet", "more/part.parquet", ".ipynb_checkpoints/good.parquet", "_temporary/0/part.parquet"]
    for name in [*names, "_old.parquet", ".good.parquet", "more/_delta_log/0.parquet"]:
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        write_parquet(tmp_path / "t" / name, [("u", name)])
    for name in ("_SUCCESS", "notes.txt", "README", "data.json.gz"):
        (tmp_path / "t" / name).write_text("")
    (tmp_path / "t" / "gone.csv").symlink_to("nowhere.csv")
    os.mkfifo(tmp_path / "t" / "pipe.csv")
    source = SourceConfig(str(tmp_path / "t"))
    expected = (
        pyarrow.dataset.dataset(str(tmp_path / "t"), exclude_invalid_files=True).to_table()["caption"].to_pylist()
    )
    assert sorted(caption for _, caption in read_pairs(source)) == sorted(expected) == names[:2]
    files = table_files.find_files(source)
    assert files.passed_over == {
        "hidden: the name, or a folder's, begins with . or _": 6,
        "of type .txt": 1,
        "of type .json": 1,
        "without a type in the name": 1,
        "links to nothing": 1,
        "neither file nor folder": 1,
    }
    assert f"{source.table}: 11 files of this folder are not read (6 hidden: " in (files.passed_over_text(source))
    assert table_files.find_files(SourceConfig(str(tmp_path / "t" / "more"))).passed_over == {
        "hidden: the name, or a folder's, begins with . or _": 1
    }
    hidden = tmp_path / "_mine" / ".cache"  # the user names the table itself, wherever it is
    hidden.mkdir(parents=True)
    write_parquet(hidden / "a.parquet", ROWS)
    assert read_pairs(SourceConfig(str(hidden))) == ROWS
    assert read_pairs(SourceConfig(str(tmp_path / "t" / "_old.parquet"))) == [("u", "_old.parquet")]


def test_names_in_capitals(tmp_path):
    write_parquet(tmp_path / "1.PARQUET", ROWS)
    write_csv(tmp_path / "2.Csv", [("url", "caption"), *ROWS])
    (tmp_path / "3.TSV.GZ").write_bytes(gzip.compress(b"url\tcaption\nu\tc\n"))
    assert read_pairs(SourceConfig(str(tmp_path))) == [*ROWS, *ROWS, ("u", "c")]
    for name, rows in (("1.PARQUET", ROWS), ("2.Csv", ROWS), ("3.TSV.GZ", [("u", "c")])):
        assert read_pairs(SourceConfig(str(tmp_path / name))) == rows


def test_a_folder_without_a_table_says_what_it_has(tmp_path):
    (tmp_path / "table.xlsx").write_text("")
    (tmp_path / "_hidden.csv").write_text("")
    text = error_of(SourceConfig(str(tmp_path)))
    assert (
        "no csv, jsonl, parquet, tsv files in this folder (source.table) (1 hidden: " in text
        and "1 of type .xlsx" in text
    )
