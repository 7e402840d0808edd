"""The rows and the bytes of a table's file, counted by another way than they are read: a second account of them.

    parquet      the number of rows in the footer
    csv          lines that do not begin inside a quoted value
    tsv, jsonl   lines that are not empty

Where the reader and this count differ, the ingest report says so. They differ where quotes are not closed, for example.
"""

import hashlib
import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from emage.config import SourceConfig
from emage.data.ingest.tables import table_files
from emage.utils import storage

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 32 << 20  # of a longer line only the beginning is looked at
_UTF8_MARK = b"\xef\xbb\xbf"

_VALUE = rb'(?:"(?:[^"]|"")*+"|(?!")[^,]*+)'
_BEGINS_QUOTE = re.compile(rb'(?:%s,)*+"(?:[^"]|"")*+' % _VALUE)  # a line that ends inside a quoted value
_ENDS_QUOTE = re.compile(rb'(?:[^"]|"")*+"(?:,(.*))?', re.DOTALL)  # one that begins in it; what follows its end


class _HashingFile:
    """A binary file, for pyarrow, whose bytes go through a hash while they are read."""

    closed = False

    def __init__(self, stream: pa.NativeFile) -> None:
        self.stream, self.digest = stream, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self.stream.read(size)
        self.digest.update(data)
        return data

    def close(self) -> None:
        self.closed = True


def survey(config: SourceConfig, file: str) -> dict[str, Any]:
    """Return what identifies a file of a table, and its number of rows; the file is read once.

    Returns:
        {"rows": number of rows, "sha256": digest of its bytes}

    Raises:
        InputError: The file cannot be read.
    """
    filesystem, _ = storage.find(config.table)
    with (
        table_files.explain_read_errors(config, file),
        filesystem.open_input_stream(file, compression=None) as stream,
    ):
        hashing = _HashingFile(stream)
        rows = _count(config, filesystem, file, hashing)
        while hashing.read(BLOCK_BYTES):  # what is behind the last row
            pass
    return {"rows": rows, "sha256": hashing.digest.hexdigest()}


def _count(config: SourceConfig, filesystem: pyarrow.fs.FileSystem, file: str, bytes_of_file: _HashingFile) -> int:
    format = table_files.format_of(config, file)
    if format == "parquet":
        return pq.read_metadata(file, filesystem=filesystem).num_rows
    lines = _lines(bytes_of_file, table_files.compression_of(file), b"\n" if format == "jsonl" else None)
    if format == "jsonl":
        return sum(1 for line in lines if line.strip(b" \t\r\n"))
    total = _count_csv(lines) if format == "csv" else sum(1 for line in lines if line)
    return max(0, total - (not config.names))


def _count_csv(lines: Iterator[bytes]) -> int:
    total = 0
    inside = 0  # lines of a row whose quote is open so far; each is a row if the quote is not closed as it should be
    for line in lines:
        if inside:
            end = _ENDS_QUOTE.fullmatch(line)
            if end:
                inside = inside + 1 if end[1] and _BEGINS_QUOTE.fullmatch(end[1]) else 0
                continue
            if _is_even(line):
                inside += bool(line)
                continue
            total += inside - 1
            inside = 0
        if line:
            total += 1
            inside = int(b'"' in line and _BEGINS_QUOTE.fullmatch(line) is not None)
    return total + max(0, inside - 1)


def _is_even(line: bytes) -> bool:
    """Return True if all quotes of the line are doubled."""
    return b'"' not in line.replace(b'""', b"")


def _lines(file: _HashingFile, compression: str | None, end: bytes | None) -> Iterator[bytes]:
    """Yield the lines of a file without their ends: `end`, or None for a line feed, a carriage return or both."""
    source = pa.PythonFile(file, mode="r")
    stream = pa.CompressedInputStream(source, compression) if compression else source
    rest, is_first = b"", True
    while block := stream.read(BLOCK_BYTES):
        data = rest[:MAX_LINE_BYTES] + block
        if is_first:
            data, is_first = data.removeprefix(_UTF8_MARK), False
        cut = data.endswith(b"\r") and end is None  # a line feed may follow
        lines = data[: len(data) - cut].split(end) if end else (data[: len(data) - cut] + b"|").splitlines()
        if end is None:
            lines[-1] = lines[-1][:-1]
        rest = lines.pop() + b"\r" * cut
        yield from lines
    if rest:
        yield from [rest] if end else rest.splitlines()
