"""Reading of caption files: one caption per line, csv, tsv, jsonl, parquet, and COCO's json.

A line ends at a line feed, a carriage return or both, as editors show it; other separators of Unicode, such as U+2028,
are characters of a caption. Whatever the format, a caption is the text that is written: `7` is a caption.
"""

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet

from emage.config import nearest
from emage.config.fields import shown_value
from emage.utils.errors import InputError, first_line

CAPTION, ID, IMAGE = "caption", "id", "image"  # names of the columns
WANTED_JSON = (
    'a caption json is COCO\'s captions_*.json ({"annotations": [{"caption": ...}]}), or a list of captions or of '
    "objects with `caption`"
)
_NOT_TEXT_FILES = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "gzip", b"PK\x03\x04": "a zip archive"}


class CaptionRow(NamedTuple):
    """A row of a caption file."""

    id: int
    caption: str | None  # None: missing
    image: str | None = None  # file name of the real image that it describes; None: unknown


def read_rows(path: Path) -> list[CaptionRow]:
    """Return all rows of a caption file, those without a caption too. The ending of its name gives the format.

    Raises:
        InputError: The file cannot be read, or holds something else than captions.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such caption file")
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"{path}: captions must be parquet, csv, tsv, jsonl, COCO json or txt")
    return reader(path)


# --- Text -------------------------------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    """Return a file's text without a byte order mark. Raise InputError if it is not UTF-8."""
    data = path.read_bytes()
    found = next((kind for magic, kind in _NOT_TEXT_FILES.items() if data.startswith(magic)), None)
    if found:
        raise InputError(f"{path}: it is {found}, not text in UTF-8: save it as that")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        byte = f"0x{data[error.start]:02x}"
        raise InputError(f"{path}: line {line} is not UTF-8 (byte {byte}): save the file as UTF-8") from None


def _lines(path: Path) -> list[str]:
    return re.split(r"\r\n|\r|\n", _read_text(path))


def _read_txt(path: Path) -> list[CaptionRow]:
    return [CaptionRow(i, line) for i, line in enumerate(_lines(path))]


def _read_csv(path: Path) -> list[CaptionRow]:
    return _named_columns(path, _csv_rows(path))


def _csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the fields of each row. Raise InputError for an open quote."""
    reader, start = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True), 1
    try:
        for row in reader:
            yield start, row
            start = reader.line_num + 1
    except csv.Error as error:
        raise InputError(f"{path}: line {start}: a quote is not closed, or within a value ({error})") from None


def _read_tsv(path: Path) -> list[CaptionRow]:
    """Read a tsv, in which a quote is a letter: only a field that begins and ends with one is unquoted."""
    rows = ((number, [_unquoted(field) for field in line.split("\t")]) for number, line in enumerate(_lines(path), 1))
    return _named_columns(path, rows)


def _unquoted(field: str) -> str:
    return field[1:-1].replace('""', '"') if re.fullmatch(r'"(?:[^"]|"")*"', field) else field


def _named_columns(path: Path, rows: Iterator[tuple[int, list[str]]]) -> list[CaptionRow]:
    """Return the caption rows of a table whose first row has the names of its columns. Empty lines are passed over."""
    filled = ((number, row) for number, row in rows if row not in ([], [""]))
    _, names = next(filled, (1, []))
    _check_names(path, names)
    captions, ids, images = [], [], []
    for number, row in filled:
        if len(row) != len(names):
            raise InputError(f"{path}: line {number} has {len(row)} fields, the first line {len(names)}")
        captions.append(row[names.index(CAPTION)])
        ids.append(row[names.index(ID)] if ID in names else None)
        images.append(row[names.index(IMAGE)] if IMAGE in names else None)
    are_ids = all(value is not None and re.fullmatch(r"-?\d{1,19}", value) for value in ids)
    return _numbered(captions, list(map(int, ids)) if are_ids else None, images)


def _check_names(path: Path, names: Sequence[str]) -> None:
    if CAPTION not in names:
        has = shown_value(", ".join(names))
        raise InputError(f"{path}: no column `{CAPTION}`{nearest(CAPTION, names)} (it has {has})")


def _numbered(
    captions: Sequence[str | None], ids: Sequence[int] | None, images: Sequence[Any] | None = None
) -> list[CaptionRow]:
    """Return rows with their ids, or row numbers, and images; values that are no names of images are left out."""
    names = [image if image and isinstance(image, str) else None for image in images or [None] * len(captions)]
    return [CaptionRow(*row) for row in zip(ids or range(len(captions)), captions, names, strict=True)]


# --- JSON and parquet -------------------------------------------------------------------------------------------------


def _read_jsonl(path: Path) -> list[CaptionRow]:
    rows = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        row = _parse_json(line, f"{path}: line {number}")
        if not isinstance(row, dict):
            raise InputError(f'{path}: line {number} is not an object: each line is {{"caption": ...}}')
        rows.append((number, row))
    names = dict.fromkeys(name for _, row in rows for name in row)
    if rows:
        _check_names(path, list(names))
    captions = [_text(row.get(CAPTION), f"{path}: line {number}") for number, row in rows]
    ids = [row.get(ID) for _, row in rows]
    return _numbered(captions, _whole_numbers(ids), [row.get(IMAGE) for _, row in rows])


def _read_json(path: Path) -> list[CaptionRow]:
    found = _parse_json(_read_text(path), str(path))
    rows = found.get("annotations") if isinstance(found, dict) else found
    if not isinstance(rows, list):
        what = f"annotations is {_kind(rows)}" if rows else f"no annotations, but {_contents(found)}"
        raise InputError(f"{path}: {what if isinstance(found, dict) else f'it is {_kind(found)}'}; {WANTED_JSON}")
    if all(isinstance(row, str) for row in rows):
        return _numbered(rows, None)
    first = next((row for row in rows if not isinstance(row, dict)), None)
    if first is not None:
        raise InputError(f"{path}: {_kind(first)} among the annotations; {WANTED_JSON}")
    if not any(CAPTION in row for row in rows):
        raise InputError(f"{path}: its annotations have no `{CAPTION}`, but {_contents(rows[0])}; {WANTED_JSON}")
    places = [f"{path}: annotation {number}" for number in range(1, len(rows) + 1)]
    captions = [_text(row.get(CAPTION), place) for row, place in zip(rows, places, strict=True)]
    names = _coco_images(found) if isinstance(found, dict) else {}
    images = [_image_name(row, names) for row in rows]
    return _numbered(captions, _whole_numbers([row.get(ID) for row in rows]), images)


def _read_parquet(path: Path) -> list[CaptionRow]:
    try:
        table = pyarrow.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path}: unreadable caption file ({first_line(error)})") from None
    _check_names(path, table.column_names)
    values = table[CAPTION].to_pylist()
    captions = [_text(value, f"{path}: row {number}") for number, value in enumerate(values, 1)]
    ids = _whole_numbers(table[ID].to_pylist()) if ID in table.column_names else None
    is_named = IMAGE in table.column_names and pa.types.is_string(table.schema.field(IMAGE).type)
    return _numbered(captions, ids, table[IMAGE].to_pylist() if is_named else None)


class _Number(str):
    """A number of a JSON text, as it is written there."""


def _parse_json(text: str, place: str) -> Any:
    """Return the value of a JSON text. Raise InputError if it is none."""
    try:
        return json.loads(text, parse_float=_Number, parse_constant=lambda _: None)
    except RecursionError:
        raise InputError(f"{place}: unreadable caption file (nested too deeply)") from None
    except ValueError as error:
        is_lines = isinstance(error, json.JSONDecodeError) and error.msg == "Extra data"
        advice = "; one value per line is jsonl: rename it" if is_lines else ""
        raise InputError(f"{place}: unreadable caption file ({error}){advice}") from None


def _text(value: Any, place: str) -> str | None:
    """Return a caption as text, None if it is missing: a number is text. Raise InputError for anything else."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"{place}: `{CAPTION}` has values that are not text, but {_kind(value)}")


def _whole_numbers(values: Sequence[Any]) -> list[int] | None:
    """Return the values if all are whole numbers, else None."""
    are_whole = all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    return list(values) if values and are_whole else None


def _coco_images(content: dict[str, Any]) -> dict[Any, Any]:
    """Return the file names of a COCO json's images by their ids."""
    listed = content.get("images")
    images = [image for image in listed if isinstance(image, dict)] if isinstance(listed, list) else []
    return {image["id"]: image.get("file_name") for image in images if isinstance(image.get("id"), int | str)}


def _image_name(row: dict[str, Any], names: dict[Any, Any]) -> Any:
    """Return the file name of an annotation's image: as the json lists it, or as COCO makes it of the id."""
    image = row.get("image_id")
    if not isinstance(image, int | str) or isinstance(image, bool):
        return row.get(IMAGE)
    return names.get(image) or (f"{image:012d}" if isinstance(image, int) else image)


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a text", bool: "true or false", bytes: "bytes"}
    kinds |= dict.fromkeys((int, float, _Number), "a number")
    return kinds.get(type(value), type(value).__name__)


def _contents(value: Any) -> str:
    return shown_value(", ".join(map(str, value))) or "nothing" if isinstance(value, dict) else _kind(value)


_READERS: dict[str, Callable[[Path], list[CaptionRow]]] = {
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
