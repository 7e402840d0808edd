"""Rows of text tables: csv, tsv, jsonl. A row that cannot be read is counted, alone: the next line is read again.

csv has quoted values, which may hold commas, line breaks and, doubled, quotes (RFC 4180). A quote inside a value that
does not begin with one is a character. A quote that is never closed would take all later rows into one value; here
its line is one bad row. tsv is read as the public tables have it, without quoting: a quote is a character.
"""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from emage.data.ingest.tables.text_lines import MAX_LINE, TOO_LONG

csv.field_size_limit(MAX_LINE)  # of this process; by default 131,072 characters, less than an image in base64

BAD_ROW = "bad_row"
_LINE_END = "\r\n"
_JSON_SPACE = " \t\r\n"


def tsv_rows(lines: Iterator[str], bad: Counter[str]) -> Iterator[list[str]]:
    """Yield the values of each row of a tsv table, also of rows with too few or too many; count lines too long."""
    for line in lines:
        if content := line.rstrip(_LINE_END):
            yield content.split("\t")
        elif line == TOO_LONG:
            bad[BAD_ROW] += 1


def csv_rows(lines: Iterator[str], bad: Counter[str], num_values: int | None, url: int) -> Iterator[list[str]]:
    """Yield the values of each row of a csv table, also of rows with too few or too many.

    Args:
        lines: Lines of the file.
        bad: The counter of rows that cannot be read: lines that are too long, and lines whose quote is not closed.
        num_values: How many values a row must have, or None while that is not known, which is so for the header. If
            a row of several lines has another number of values, its quote was left open, and the quote that closed it
            belongs to a later row: the first line is counted in `bad`, the others are read again as rows.
        url: Index of the URL among the values. It tells whether the lines inside a quoted value are rows.
    """
    again: list[str] = []  # lines to read once more, the next one last

    def next_line() -> str | None:
        return again.pop() if again else next(lines, None)

    while (line := next_line()) is not None:
        if line == TOO_LONG:
            bad[BAD_ROW] += 1
        elif '"' not in line:
            if content := line.rstrip(_LINE_END):
                yield content.split(",")
        else:
            row, following = _parse_quoted(line, next_line)
            ragged = row is not None and following and num_values not in (None, len(row))
            if row is None or ragged or _are_rows(following, len(row), url):
                bad[BAD_ROW] += 1
                again.extend(reversed(following))
            else:
                yield row


def _parse_quoted(line: str, next_line: Callable[[], str | None]) -> tuple[list[str] | None, list[str]]:
    """Return the values of the row that begins with this line, and the further lines that were read for it.

    The values are None if a quote is not closed as it should be.
    """
    following: list[str] = []

    def feed() -> Iterator[str]:
        yield line
        while (further := next_line()) is not None:
            following.append(further)
            if further == TOO_LONG:
                return
            yield further

    try:
        return next(csv.reader(feed(), strict=True)), following
    except (csv.Error, StopIteration):  # strict: an open quote at the end, or text after a closing one
        return None, following


def _are_rows(following: list[str], num_values: int, url: int) -> bool:
    """Return True if at least half of the lines after the first of a quoted value are rows of their own, with a URL.

    Then the quote was not meant to be closed there: `"wide screen` and, many rows later, `24"` make one value.
    """
    num_rows = 0
    for line in following:
        try:
            row = next(csv.reader([line], strict=True))
        except csv.Error:
            continue
        num_rows += len(row) == num_values and row[url].lstrip().startswith(("http://", "https://"))
    return bool(following) and 2 * num_rows >= len(following)


def jsonl_rows(lines: Iterator[str], bad: Counter[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) of each row of a jsonl table; count the lines that are not an object.

    Python's parser is used: pyarrow's is no faster, and fails if a column has texts and numbers.
    """
    for number, line in enumerate(lines, 1):
        if line != TOO_LONG and not line.strip(_JSON_SPACE):
            continue
        row = _parse_object(line)
        if row is None:
            bad[BAD_ROW] += 1
        else:
            yield number, row


def _parse_object(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # RecursionError: ten thousand brackets
        return None
    return row if isinstance(row, dict) else None
