"""Parquet files with the bytes of images: the hub's structs, plain columns, row groups, cells that are missing."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored_images import encoded, read_all

from emage.config import SourceConfig
from emage.data.ingest.download.fetch_error import FetchError
from emage.data.ingest.sources import image_parquet, kinds, table_record
from emage.utils.errors import InputError

IMAGES = [encoded(number % 256, size=(20 + number // 256, 20)) for number in range(2_500)]


def source(path: Path, **settings) -> SourceConfig:
    return SourceConfig(str(path), **settings)


def write_plain(path: Path, images: list[bytes | None], row_group_size: int = 1_000, **options) -> None:
    captions = [f"caption {number}" for number in range(len(images))]
    table = pa.table({"image": pa.array(images, pa.binary()), "caption": captions})
    pq.write_table(table, path, row_group_size=row_group_size, **options)


def test_structs_of_the_hub(tmp_path):
    images = [{"bytes": encoded(n), "path": f"{n}.png"} for n in range(3)] + [{"bytes": encoded(3), "path": None}]
    texts = [["one", "two"], ["three"], [], ["four"]]
    table = pa.table(
        {"image": images, "text": texts, "label": [1, 2, 3, 4], "url": ["http://a.test/0", None, "", None]}
    )
    pq.write_table(table, tmp_path / "train-00000.parquet")
    rows, dropped = read_all(source(tmp_path, where=("label!=3",)))
    assert [(row["url"], row["caption"], row["meta.label"]) for row in rows] == [
        ("http://a.test/0", "one", 1),
        ("http://a.test/0", "two", 1),
        ("1.png", "three", 2),
        ("train-00000.parquet#3", "four", 4),
    ]
    assert dropped == {"no_caption": 1}
    read = image_parquet.open_images(source(tmp_path))
    assert [read(row["address"], lambda _: None) for row in rows] == [encoded(n) for n in (0, 0, 1, 3)]


@pytest.mark.parametrize("row_group_size", [100, 2_500])
@pytest.mark.parametrize("dictionary", [True, False])
def test_bytes_of_rows_by_many_threads(tmp_path, row_group_size, dictionary):
    for shard in range(2):
        write_plain(
            tmp_path / f"{shard}.parquet", IMAGES[1_250 * shard :][:1_250], row_group_size, use_dictionary=dictionary
        )
    rows, _ = read_all(source(tmp_path))
    expected = {f"{n % 1_250}#{n // 1_250}.parquet": data for n, data in enumerate(IMAGES)}
    assert [row["address"] for row in rows] == list(expected)
    assert len({row["group"] for row in rows}) == (26 if row_group_size == 100 else 4)
    read, taken = image_parquet.open_images(source(tmp_path)), []
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda row: read(row["address"], taken.append), rows))
    assert found == IMAGES and sorted(taken) == sorted(map(len, IMAGES))
    for row in (2_400, 0, 1_300):  # backwards, and in another file
        assert read(rows[row]["address"], taken.append) == IMAGES[row]


def test_small_batches_are_read_on_from_where_they_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(image_parquet.parquet_batches, "MAX_ROWS", 7)
    write_plain(tmp_path / "t.parquet", IMAGES[:100], use_dictionary=False)
    read = image_parquet.open_images(source(tmp_path))
    assert [read(f"{row}#t.parquet", lambda _: None) for row in (*range(100), 3, 99)] == [
        *IMAGES[:100],
        IMAGES[3],
        IMAGES[99],
    ]


def test_cells_that_are_missing_or_too_large(tmp_path):
    write_plain(tmp_path / "t.parquet", [encoded(1), None, b""])
    assert len(read_all(source(tmp_path))[0]) == 3  # the download counts them

    def refuse(size: int) -> None:
        raise FetchError("too_big")

    read = image_parquet.open_images(source(tmp_path))
    for address, reserve, reason in (
        ("1#t.parquet", lambda _: None, "no_image"),
        ("2#t.parquet", lambda _: None, "empty"),
        ("0#t.parquet", refuse, "too_big"),
        ("0#gone.parquet", refuse, "no_image"),
    ):
        with pytest.raises(FetchError, match=reason):
            read(address, reserve)


def test_columns_of_other_names_and_tables_of_urls(tmp_path):
    for name, columns, kind in (
        ("img", {"img": [encoded(1)], "text": ["c"]}, "image_parquet"),
        ("mine", {"mine": [encoded(1)], "text": ["c"]}, "auto"),
        ("urls", {"url": ["u"], "caption": ["c"], "image": ["a.jpg"]}, "auto"),
    ):
        (tmp_path / name).mkdir()
        pq.write_table(pa.table(columns), tmp_path / name / "t.parquet")
        assert kinds.resolve(source(tmp_path / name)).format == kind
    assert kinds.resolve(source(tmp_path / "mine", image="mine")).format == "image_parquet"
    assert [row["caption"] for row in read_all(source(tmp_path / "img" / "t.parquet"))[0]] == ["c"]
    with pytest.raises(InputError, match=r"no column 'image' with images' bytes .* \(it has: mine \(binary\), text"):
        kinds.check(source(tmp_path / "mine", format="image_parquet"))
    with pytest.raises(InputError, match=r"no column 'titel' \(source\.caption\)"):
        kinds.check(kinds.resolve(source(tmp_path / "img", caption=("titel",))))


@pytest.mark.parametrize("name", ["t.parquet/part-0.parquet", "t.pq"])
def test_a_folder_that_is_called_like_a_file_and_a_file_that_is_not(tmp_path, name):
    """Spark writes such folders."""
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    write_plain(path, IMAGES[:2])
    table = source(tmp_path / name.partition("/")[0], format="image_parquet")
    read = image_parquet.open_images(table)
    assert [read(row["address"], lambda _: None) for row in read_all(table)[0]] == IMAGES[:2]


def test_an_edit_is_noticed(tmp_path):
    write_plain(tmp_path / "t.parquet", [encoded(1), encoded(2)])
    table = kinds.resolve(source(tmp_path))
    files = kinds.find_files(table)
    known = [table_record.facts(files, info) | kinds.survey(table, info.path) for info in files.infos]
    assert known[0]["rows"] == 2 and not table_record.has_changed(known, table)
    write_plain(tmp_path / "t.parquet", [encoded(2), encoded(1)])
    assert table_record.has_changed(known, table)


def test_real_drawings(real_data):
    rows, dropped = read_all(source(real_data / "noto_emoji_128.parquet"))
    assert len(rows) == 3_543 and dropped == {}
    read = image_parquet.open_images(source(real_data / "noto_emoji_128.parquet"))
    assert all(read(row["address"], lambda _: None).startswith(b"\x89PNG") for row in rows[::100])


def test_threads_that_come_late_cost_no_second_reading(tmp_path, monkeypatch):
    monkeypatch.setattr(image_parquet.parquet_batches, "MAX_ROWS", 7)
    opened = []
    read_batches = image_parquet.parquet_batches.read_batches
    monkeypatch.setattr(
        image_parquet.parquet_batches,
        "read_batches",
        lambda *arguments, **names: opened.append(arguments) or read_batches(*arguments, **names),
    )
    structs = [{"bytes": data, "path": None} for data in IMAGES[:300]]
    pq.write_table(pa.table({"image": structs, "caption": ["c"] * 300}), tmp_path / "t.parquet", row_group_size=50)
    read = image_parquet.open_images(source(tmp_path))
    order = [row for start in range(0, 300, 60) for row in reversed(range(start, start + 60))]  # across row groups
    assert [read(f"{row}#t.parquet", lambda _: None) for row in order] == [IMAGES[row] for row in order]
    assert len(opened) <= 10  # of 6 row groups


def test_one_large_entry_of_a_dictionary_is_not_copied_for_every_row(tmp_path):
    """A few kB on disk, 600 MB if every row of a batch had its own copy."""
    for name, cell in (("plain", bytes(2 << 20)), ("struct", {"bytes": bytes(2 << 20), "path": None})):
        table = pa.table({"image": [cell] * 4, "caption": ["c"] * 4}).take(pa.array([0] * 300))
        pq.write_table(table, tmp_path / f"{name}.parquet", compression="zstd")
        assert (tmp_path / f"{name}.parquet").stat().st_size < 1 << 20
        read = image_parquet.open_images(source(tmp_path))
        before = pa.total_allocated_bytes()
        assert len(read(f"299#{name}.parquet", lambda _: None)) == 2 << 20
        assert pa.total_allocated_bytes() - before < 450 << 20
