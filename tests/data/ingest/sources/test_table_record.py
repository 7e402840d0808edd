"""What is recorded of a table's files: an edit is noticed at any size, a copy is not an edit."""

import os
import shutil
from collections import Counter

import pytest
from url_tables import ROWS, write_csv, write_jsonl, write_parquet

from emage.config import SourceConfig
from emage.data.ingest.sources import table_record
from emage.data.ingest.tables import row_count, table_files


def record(source: SourceConfig) -> list[table_record.Record]:
    table = table_files.find_files(source)
    return [table_record.facts(table, info) | row_count.survey(source, info.path) for info in table.infos]


@pytest.fixture
def source(tmp_path) -> SourceConfig:
    (tmp_path / "t" / "deep").mkdir(parents=True)
    write_csv(tmp_path / "t" / "1.csv", [("url", "caption"), *ROWS])
    write_jsonl(tmp_path / "t" / "2.jsonl", [{"url": "u", "caption": "c"}])
    write_parquet(tmp_path / "t" / "deep" / "1.parquet", ROWS)
    return SourceConfig(str(tmp_path / "t"))


def test_an_edit_at_the_same_size_is_noticed(source, tmp_path):
    known = record(source)
    assert [(file["name"], file["rows"]) for file in known] == [("1.csv", 5), ("2.jsonl", 1), ("deep/1.parquet", 5)]
    assert not table_record.has_changed(known, source)
    for name in ("1.csv", "2.jsonl", "deep/1.parquet"):
        path = tmp_path / "t" / name
        content, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
        path.write_bytes(content.replace(b"c", b"d", 1))
        assert table_record.has_changed(known, source)
        path.write_bytes(content)
        assert not table_record.has_changed(known, source)  # the time is another one, the bytes are not
        os.utime(path, ns=times)


def test_a_copy_is_the_same_table(source, tmp_path):
    known = record(source)
    shutil.copytree(tmp_path / "t", tmp_path / "copy", copy_function=shutil.copyfile)
    copy = SourceConfig(str(tmp_path / "copy"))
    assert record(copy) != known and table_record.content(record(copy)) == table_record.content(known)
    assert not table_record.has_changed(known, copy)
    (tmp_path / "copy" / "deep" / "1.parquet").rename(tmp_path / "copy" / "1.parquet")
    assert table_record.has_changed(known, copy)


def test_records_of_earlier_versions_have_names_and_sizes(source, tmp_path):
    known = [[file["name"].rpartition("/")[2], file["size"]] for file in record(source)]
    assert not table_record.has_changed(known, source)
    (tmp_path / "t" / "1.csv").write_text("url,caption\nu,c\n")
    assert table_record.has_changed(known, source)


def test_files_whose_counts_differ_are_named(source):
    files = record(source)
    read = Counter({("web", "1.csv"): 5, ("web", "2.jsonl"): 4, ("web", "deep/1.parquet"): 5})
    assert table_record.compare_counts([("web", files)], read) == [
        {"dataset": "web", "file": "2.jsonl", "read": 4, "counted": 1}
    ]
