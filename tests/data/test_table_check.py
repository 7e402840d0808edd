"""Damaged token tables: whatever bit flips, the rows that training reads are the right ones, or one line says so."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emage.data import table_check
from emage.data.schema import TokenizerInfo, token_schema
from emage.data.token_table import TokenTable
from emage.utils import manifest
from emage.utils.errors import InputError

INFO = TokenizerInfo("made-up", "0" * 64, 512, (2, 2))
ROWS, FILES = 60, 2


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emage.data.token_table.RETRY_PAUSES_S", ())


def rows_of_table(info: TokenizerInfo = INFO) -> pa.Table:
    tokens = np.random.default_rng(0).integers(0, INFO.vocab_size, ROWS * info.num_tokens).astype(np.uint16)
    texts = {name: [f"{name} {i}" for i in range(ROWS)] for name in ("dataset", "key", "url", "caption", "sha256")}
    numbers = {name: np.arange(ROWS) for name in ("uid", "width", "height")}
    arrays = {"tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens), info.num_tokens)}
    return pa.table(texts | numbers | arrays, schema=token_schema(info, "test"))


def write(folder: Path, table: pa.Table | None = None, **options: object) -> Path:
    """Write a table and its manifest as the shuffle does."""
    table = rows_of_table() if table is None else table
    folder.mkdir(exist_ok=True)
    size = ROWS // FILES
    for i in range(FILES):
        file = folder / f"{i:05d}.parquet"
        options = {"write_page_checksum": True, "compression": "zstd", "row_group_size": 10} | options
        pq.write_table(table.slice(i * size, size), file, **options)
    listed = [
        {"name": file.name, "sha256": manifest.sha256(file), "footer": table_check.footer_sha256(file)}
        for file in sorted(folder.glob("*.parquet"))
    ]
    manifest.write_json(folder / table_check.MANIFEST, {"files": listed})
    return folder


def read(folder: Path) -> list[tuple[int, str, list[int]]]:
    """Check and read a table as a training does."""
    table_check.check_table(str(folder))
    table = TokenTable(str(folder), seed=0)
    batch = table.batch(0, ROWS)
    table.close()
    return sorted(zip(batch.uid, batch.captions, batch.y.tolist(), strict=True))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole"))


def test_a_whole_table_is_read(whole: Path):
    expected = rows_of_table().select(["uid", "caption", "tokens"]).to_pylist()
    assert read(whole) == [tuple(row.values()) for row in expected]


def test_any_flipped_bit_is_found_or_changes_nothing(whole: Path):
    """Also those in the structure of the file, which page checksums do not cover."""
    file, expected = whole / "00001.parquet", read(whole)
    content, found = file.read_bytes(), {"error": 0, "same": 0}

    @given(st.integers(0, 8 * len(content) - 1))
    def check(bit: int) -> None:
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        try:
            assert read(whole) == expected
            found["same"] += 1  # a statistic, or a column that training does not read
        except InputError as error:
            assert "00001.parquet" in str(error) and "\n" not in str(error)
            found["error"] += 1

    try:
        check()
    finally:
        file.write_bytes(content)
    assert found["error"] > found["same"]


def test_a_table_whose_manifest_has_no_footers_is_read_through_once(tmp_path: Path):
    write(tmp_path, write_page_checksum=False)
    values = json.loads((tmp_path / table_check.MANIFEST).read_text())
    for entry in values["files"]:
        del entry["footer"]
    (tmp_path / table_check.MANIFEST).write_text(json.dumps(values))
    table_check.check_table(str(tmp_path))
    file = tmp_path / "00000.parquet"
    content = bytearray(file.read_bytes())
    content[60] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"00000\.parquet is damaged: .* put a whole copy back, or delete the table's"):
        table_check.check_table(str(tmp_path))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is missing": (lambda folder: (folder / "00001.parquet").unlink(), r"00001\.parquet is missing"),
    "a file too many": (lambda folder: os.link(folder / "00000.parquet", folder / "x.parquet"), "x.parquet is no part"),
    "a cut file": (lambda folder: os.truncate(folder / "00001.parquet", 900), r"00001\.parquet is damaged"),
    "an empty file": (lambda folder: os.truncate(folder / "00001.parquet", 0), r"00001\.parquet is damaged"),
    "an empty manifest": (lambda folder: os.truncate(folder / table_check.MANIFEST, 0), "_manifest.json is damaged"),
    "half a manifest": (lambda folder: os.truncate(folder / table_check.MANIFEST, 90), "_manifest.json is damaged"),
    "another JSON": (lambda folder: (folder / table_check.MANIFEST).write_text("[1]"), "_manifest.json is damaged"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_table_that_is_not_what_its_manifest_says(tmp_path: Path, name: str):
    change, message = CHANGES[name]
    change(write(tmp_path))
    with pytest.raises(InputError, match=message):
        table_check.check_table(str(tmp_path))


def test_a_table_of_another_program_has_no_manifest(tmp_path: Path):
    (write(tmp_path) / table_check.MANIFEST).unlink()
    assert len(read(tmp_path)) == ROWS


# Values that training cannot use


def with_column(name: str, column: pa.Array) -> pa.Table:
    table = rows_of_table()
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)


def tokens(values: list[list[int | None] | None]) -> pa.Array:
    return pa.array(values, pa.list_(pa.uint16(), 4))


NOT_UTF8 = pa.Array.from_buffers(
    pa.string(), ROWS, [None, pa.py_buffer(np.arange(ROWS + 1, dtype=np.int32)), pa.py_buffer(b"\xff" * ROWS)]
)
UNUSABLE = {
    "a token outside the vocabulary": ("tokens", tokens([[1, 2, 3, 512]] * ROWS), "has token 512, but the vocabulary"),
    "the largest token": ("tokens", tokens([[0] * 4] * (ROWS - 1) + [[65535] * 4]), "has token 65535, .* is 0 to 511"),
    "a missing token": ("tokens", tokens([[1, None, 3, 4]] * ROWS), "10 values of the column tokens are missing"),
    "an image without tokens": ("tokens", tokens([None, *[[1, 2, 3, 4]] * (ROWS - 1)]), "tokens are missing|all lists"),
    "a missing caption": ("caption", pa.array([None, *["a"] * (ROWS - 1)]), "values of the column caption are missing"),
    "a missing uid": ("uid", pa.array([None, *range(1, ROWS)], pa.int64()), "1 values of the column uid are missing"),
}


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("name", UNUSABLE)
def test_values_that_training_cannot_use(tmp_path: Path, name: str, statistics: bool):
    """They are found in the footers at the start; if these have no statistics, when the rows are read."""
    column, values, message = UNUSABLE[name]
    write(tmp_path, with_column(column, values), write_statistics=statistics)
    if statistics:
        with pytest.raises(InputError, match=rf"0000.\.parquet.*({message})"):
            TokenTable(str(tmp_path), seed=0)
    else:
        with pytest.raises(InputError, match=rf"0000.\.parquet.*({message})"):
            TokenTable(str(tmp_path), seed=0).batch(0, ROWS)


def test_a_caption_that_is_not_utf8(tmp_path: Path):
    write(tmp_path, with_column("caption", NOT_UTF8))
    with pytest.raises(InputError, match=r"0000.\.parquet: cannot be read .*UTF8"):
        TokenTable(str(tmp_path), seed=0).batch(0, ROWS)


def test_an_empty_row_group_is_passed_over(tmp_path: Path):
    table = rows_of_table()
    with pq.ParquetWriter(tmp_path / "00000.parquet", table.schema) as file:
        for part in (table.slice(0, 0), table.slice(0, 30), table.slice(0, 0), table.slice(30)):
            file.write_table(part)
    batch = TokenTable(str(tmp_path), seed=0).batch(0, ROWS)
    assert sorted(batch.uid) == list(range(ROWS))


@pytest.mark.parametrize(
    "described",
    [
        "{}",
        "[]",
        "3",
        "not JSON",
        '{"name": "a", "sha256": "b", "vocab_size": 0, "grid": [2, 2]}',
        '{"name": "a", "sha256": "b", "vocab_size": 70000, "grid": [2, 2]}',
        '{"name": "a", "sha256": "b", "vocab_size": 512, "grid": [2, 2, 2]}',
        '{"name": "a", "sha256": "b", "vocab_size": 512, "grid": [0, 2]}',
        '{"name": "a", "sha256": "b", "vocab_size": "512", "grid": [2, 2]}',
        '{"name": "a", "sha256": "b", "vocab_size": 512, "grid": null}',
    ],
)
def test_a_tokenizer_that_cannot_be(tmp_path: Path, described: str):
    write(tmp_path, rows_of_table().replace_schema_metadata({"emage.tokenizer": described}))
    with pytest.raises(InputError, match="not a token table"):
        TokenTable(str(tmp_path), seed=0)
