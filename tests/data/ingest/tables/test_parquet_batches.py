"""Parquet files of a few kB whose values would fill the memory: batches are small, or the file is refused."""

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from url_tables import read_and_count

from emage.config import SourceConfig
from emage.data.ingest import url_table
from emage.data.ingest.tables import parquet_batches
from emage.utils.errors import InputError


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("BATCH_BYTES", 64_000), ("MAX_PAGE_BYTES", 12_000_000), ("MAX_MEAN", 100_000)):
        monkeypatch.setattr(parquet_batches, name, value)


def bytes_of_batches(path) -> list[int]:
    filesystem = pyarrow.fs.LocalFileSystem()
    return [batch.nbytes for batch in parquet_batches.read_batches(filesystem, str(path), ["url", "caption"], None)]


def test_rows_that_name_one_long_dictionary_entry(tmp_path):
    """Decoded, they are 200 MB: 1,000 rows of 200 kB in a file of a few kB."""
    captions = ["x" * 200_000, *["short"] * 9] * 100 + ["x" * 200_000] * 900
    pq.write_table(pa.table({"url": ["u"] * 1_900, "caption": captions}), tmp_path / "t.parquet")
    assert (tmp_path / "t.parquet").stat().st_size < 20_000
    assert max(bytes_of_batches(tmp_path / "t.parquet")) < 250_000  # the entry itself, once
    rows, bad, counted = read_and_count(SourceConfig(str(tmp_path / "t.parquet")))
    assert [caption for _, caption in rows] == [caption[:4_000] for caption in captions]
    assert (bad, counted) == (0, 1_900)


def test_long_entries_among_many_values(tmp_path):
    """Too many values for a dictionary in memory: their copies are bounded by the number of rows in a batch."""
    captions = [f"{n} " + "x" * 400 for n in range(900)] + ["y" * 6_000] * 300
    pq.write_table(pa.table({"url": ["u"] * 1_200, "caption": captions}), tmp_path / "t.parquet")
    sizes = bytes_of_batches(tmp_path / "t.parquet")
    assert len(sizes) > 10 and max(sizes) < 128_000
    assert [caption for _, caption in read_and_count(SourceConfig(str(tmp_path / "t.parquet")))[0]] == [
        caption[:4_000] for caption in captions
    ]


def test_long_values_without_dictionary(tmp_path):
    """They compress to nothing; the footer says how large they are."""
    captions = ["x" * 50_000] * 200
    table = pa.table({"url": ["u"] * 200, "caption": captions})
    pq.write_table(table, tmp_path / "t.parquet", use_dictionary=False, compression="zstd")
    assert (tmp_path / "t.parquet").stat().st_size < 20_000
    assert max(bytes_of_batches(tmp_path / "t.parquet")) < 400_000
    assert len(read_and_count(SourceConfig(str(tmp_path / "t.parquet")))[0]) == 200


def test_rows_larger_than_those_of_any_table_are_refused(tmp_path):
    table = pa.table({"url": ["u"] * 2, "caption": ["x" * 1_000_000, "y"]})
    pq.write_table(table, tmp_path / "t.parquet", use_dictionary=False)
    with pytest.raises(InputError, match=r"t\.parquet: row group 0 has \d+ MB of texts in 2 rows"):
        list(url_table.read(SourceConfig(str(tmp_path / "t.parquet"))))


@pytest.mark.parametrize("format", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_page_that_unpacks_to_too_much_is_not_unpacked(format, compression, tmp_path, monkeypatch):
    monkeypatch.setattr(parquet_batches, "MAX_PAGE_BYTES", 1_900_000)
    table = pa.table({"url": ["u"] * 200, "caption": ["x" * 10_000] * 200})
    options = {"data_page_version": format, "compression": compression, "data_page_size": 1 << 30}
    pq.write_table(table, tmp_path / "t.parquet", use_dictionary=False, **options)
    with pytest.raises(InputError, match=r"t\.parquet: row group 0 has pages that unpack to 1 MB \(at most 1 MB"):
        list(url_table.read(SourceConfig(str(tmp_path / "t.parquet"))))


@pytest.mark.parametrize("stored", ["in the file's dictionary", "as categories"])
def test_a_dictionary_that_is_too_large_is_not_read(stored, tmp_path, monkeypatch):
    """pyarrow keeps the entries of both in memory; those of the second are no dictionary in the file."""
    monkeypatch.setattr(parquet_batches, "MAX_DICTIONARY_BYTES", 100_000)
    captions = pa.array([f"caption {n}" for n in range(9_000)])
    is_category = stored == "as categories"
    table = pa.table({"url": ["u"] * 9_000, "caption": captions.dictionary_encode() if is_category else captions})
    pq.write_table(table, tmp_path / "t.parquet", use_dictionary=not is_category)
    with pytest.raises(InputError, match=r"t\.parquet: row group 0 has dictionaries of \d MB"):
        list(url_table.read(SourceConfig(str(tmp_path / "t.parquet"))))


def test_values_that_are_parts_of_each_other(tmp_path):
    """In the file each is the one before it and nothing more: 200 kB in 400 bytes."""
    captions = ["x" * 50_000] * 40
    options = {"use_dictionary": False, "column_encoding": {"caption": "DELTA_BYTE_ARRAY", "url": "PLAIN"}}
    pq.write_table(pa.table({"url": ["u"] * 40, "caption": captions}), tmp_path / "t.parquet", **options)
    assert (tmp_path / "t.parquet").stat().st_size < 5_000
    assert max(bytes_of_batches(tmp_path / "t.parquet")) < 64_000
    assert len(read_and_count(SourceConfig(str(tmp_path / "t.parquet")))[0]) == 40


@pytest.mark.parametrize("as_dictionary", [True, False])
def test_lists_may_all_be_one(as_dictionary, tmp_path, monkeypatch):
    """1,000 captions of 2 kB, in lists of any length."""
    for lists in ([["x" * 2_000]] * 1_000, [["x" * 2_000] * 999, ["x" * 2_000]]):
        table = pa.table({"url": ["u"] * len(lists), "caption": pa.array(lists, pa.list_(pa.string()))})
        pq.write_table(table, tmp_path / "t.parquet", use_dictionary=as_dictionary)
        source = SourceConfig(str(tmp_path / "t.parquet"), caption=("caption",))
        monkeypatch.setattr(parquet_batches, "MAX_MEAN", 10**7)
        monkeypatch.setattr(parquet_batches, "MAX_LIST_BYTES", 3_000_000)
        assert sum(len(batch) for batch in url_table.read(source)) == len(lists)
        monkeypatch.setattr(parquet_batches, "MAX_LIST_BYTES", 1_900_000)
        with pytest.raises(
            InputError, match=r"row group 0 has lists, one of which may hold 1 MB .* smaller row groups"
        ):
            list(url_table.read(source))


def test_short_values_are_read_in_full_batches(tmp_path, monkeypatch):
    monkeypatch.undo()
    table = pa.table({"url": [f"u{n}" for n in range(5_000)], "caption": [f"caption {n}" for n in range(5_000)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=3_000)
    assert len(bytes_of_batches(tmp_path / "t.parquet")) == 3 + 2
