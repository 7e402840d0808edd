"""Values of a table's columns as the rest of the ingest sees them: plain, short texts in UTF-8, or missing.

| value | of a caption | of a URL, an md5 sum |
|---|---|---|
| text | its first MAX_CHARACTERS characters, all that cleaning reads | as it is |
| bytes | decoded; what is not UTF-8 becomes U+FFFD | the same |
| a spelling of "missing": nan, NULL, N/A, ... | missing | missing |
| number | its digits; missing if it is not finite | refused (jsonl: its digits) |
| true, false | refused (jsonl: missing) | refused |
| list | of texts, bytes or numbers: several captions, if it is the only column of them | refused |
| object, time, ... | refused | refused |
"""

import json
import math
from collections.abc import Sequence
from itertools import accumulate, chain
from typing import Any

import pyarrow as pa
import pyarrow.compute

from emage.config import SourceConfig, nearest
from emage.data.ingest import url_filter
from emage.data.ingest.captions.caption_cleaning import MAX_CHARACTERS
from emage.data.ingest.captions.caption_words import MISSING
from emage.data.ingest.tables import table_files
from emage.utils.errors import InputError

pc: Any = pyarrow.compute  # made at import, so that type checkers do not see its functions
MAX_ESCAPED = 12 * MAX_CHARACTERS  # before %-escapes are decoded: a character is four bytes at most, each as %XX
_MISSING = pa.array(sorted(MISSING), pa.string())


def check_names(config: SourceConfig, file: str, names: list[str], columns: list[str]) -> None:
    """Raise InputError if one of the columns is not among a file's names, or is there twice."""
    for column in columns:
        key = f"({table_files.column_setting(config, column)})"
        if column not in names:
            has = ", ".join(name[:80] for name in names[:20])
            raise InputError(f"{file}: no column {column!r} {key}{nearest(column, names)} (it has: {has})")
        if names.count(column) > 1:
            raise InputError(f"{file}: {names.count(column)} columns are called {column!r} {key}; rename all but one")


def check_types(config: SourceConfig, file: str, schema: pa.Schema) -> None:
    """Raise InputError if a column of a parquet file has a type that its use cannot have."""
    for column in (config.url, *config.caption, config.md5):
        if column is None or column not in schema.names:  # the URL of a table of images
            continue
        type = _value_type(schema.field(column).type)
        if is_list(type) and config.caption == (column,):
            type = _value_type(type.value_type)
        if not (_is_text(type) or (column in config.caption and _is_number(type))):
            raise wrong_type(config, f"{file}: column {column!r} holds {type}", column)
    for text in config.where:
        condition = url_filter.parse_condition(text)
        type = _value_type(schema.field(condition.column).type)
        try:
            condition.holds(metadata(pa.array([], type)))
        except pa.ArrowException:
            name = f"{file}: {condition.column!r} holds {type}"
            raise InputError(f"{name}, which cannot be compared (source.where: {condition.text})") from None


def wrong_type(config: SourceConfig, problem: str, column: str) -> InputError:
    """Return the error for a column with values that are no text."""
    key = table_files.column_setting(config, column)
    return InputError(f"{problem}, not text ({key}); name another column, or write one text per row")


def json_text(config: SourceConfig, column: str, value: Any, place: str) -> str | list[str | None] | None:
    """Return a value of a jsonl row as text, None if it is missing. Texts stay, others are as JSON writes them: 0.3.

    Args:
        config: The table.
        column: The value's column.
        value: The value, as Python's JSON parser returns it. A list of captions becomes a list of texts.
        place: File and line, for an error.

    Raises:
        InputError: A list or an object is given where a text belongs.
    """
    if value is None or isinstance(value, str):
        return value
    if column in (config.url, *config.caption, config.md5):
        if isinstance(value, list) and config.caption == (column,):
            return [_json_scalar(config, column, caption, place) for caption in value]
        return _json_scalar(config, column, value, place)
    return json.dumps(value)


def _json_scalar(config: SourceConfig, column: str, value: Any, place: str) -> str | None:
    if isinstance(value, list | dict):
        kind = "a list" if isinstance(value, list) else "an object"
        raise wrong_type(config, f"{place}: column {column!r} holds {kind}", column)
    if value is None or isinstance(value, bool) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value if isinstance(value, str) else json.dumps(value)


def as_text(value: Any) -> str | None:
    """Return any value of a JSON object as text, None if it is missing: texts stay, others are as JSON writes them."""
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str)


def json_column(values: Sequence[str | list[str | None] | None]) -> pa.Array:
    """Return texts as a column, or lists of texts if there is one among them."""
    if not any(isinstance(value, list) for value in values):
        return _text_column([value for value in values if not isinstance(value, list)])
    lists = [value if isinstance(value, list) else [value] for value in values]
    ends = pa.array([0, *accumulate(map(len, lists))], pa.int32())
    return pa.ListArray.from_arrays(ends, _text_column(list(chain.from_iterable(lists))))


def _text_column(values: list[str | None]) -> pa.Array:
    """Return texts as a column. Half of a surrogate pair, which JSON can express and UTF-8 cannot, becomes "?"."""
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        return pa.array((v if v is None else v.encode(errors="replace").decode() for v in values), pa.string())


def texts(column: pa.Array, limit: int) -> pa.Array:
    """Return a column of texts, bytes or numbers as texts of at most `limit` characters, null if missing."""
    if _is_number(column.type):
        if pa.types.is_floating(column.type):
            column = column.cast(pa.float64())
            column = pc.if_else(pc.is_finite(column), column, pa.scalar(None, pa.float64()))
        return column.cast(pa.string())
    found = _decoded(column, limit)
    return pc.if_else(pc.is_in(found, value_set=_MISSING), pa.scalar(None, pa.string()), found)


def text_lists(column: pa.Array, limit: int) -> pa.Array:
    """Return a column of lists, of what `texts` takes, as lists of texts; a missing list is an empty one."""
    found = texts(pc.list_flatten(column), limit)
    ends = pc.cumulative_sum(pc.fill_null(pc.list_value_length(column), 0).cast(pa.int32()))
    return pa.ListArray.from_arrays(pa.concat_arrays([pa.array([0], pa.int32()), ends]), found)


def metadata(column: pa.Array) -> pa.Array:
    """Return a column for conditions: texts and bytes as texts, others as they are."""
    return _decoded(column, MAX_CHARACTERS) if _is_text(column.type) else column


def _decoded(column: pa.Array, limit: int) -> pa.Array:
    """Return texts or bytes as texts of at most `limit` characters; bytes that are not UTF-8 become U+FFFD.

    A parquet file may hold such bytes in a column of texts as well: they are unchecked.
    """
    if pa.types.is_null(column.type):
        return column.cast(pa.string())
    data = column.cast(pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary())
    longest = pc.max(pc.binary_length(data)).as_py() or 0
    if longest > limit:
        data = pc.binary_slice(data, 0, 4 * limit)  # a character has at most four bytes
    try:
        found = data.cast(pa.string())
    except pa.ArrowInvalid:
        found = pa.array((v if v is None else v.decode(errors="replace") for v in data.to_pylist()), pa.string())
    return pc.utf8_slice_codeunits(found, 0, limit) if longest > limit else found


def is_list(type: pa.DataType) -> bool:
    """Return True if a column's values are lists, whatever their lengths."""
    return pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type)


def _value_type(type: pa.DataType) -> pa.DataType:
    return type.value_type if pa.types.is_dictionary(type) else type


def _is_text(type: pa.DataType) -> bool:
    kinds = pa.types
    return (
        kinds.is_null(type)
        or any(is_kind(type) for is_kind in (kinds.is_string, kinds.is_large_string, kinds.is_string_view))
        or any(is_kind(type) for is_kind in (kinds.is_binary, kinds.is_large_binary, kinds.is_binary_view))
        or kinds.is_fixed_size_binary(type)
    )


def _is_number(type: pa.DataType) -> bool:
    return pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type)
