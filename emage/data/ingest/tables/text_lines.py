"""Lines of a text file, decompressed and decoded while they are read, with a limit on the length of each.

A line ends at a line feed, a carriage return or both, as editors show it, and nowhere else: U+2028, U+0085, vertical
tab and form feed are characters of a caption. A byte order mark at the beginning is no part of the first line.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow.fs

from emage.data.ingest.tables import table_files
from emage.utils.errors import InputError

MAX_LINE = 8 << 20  # characters; a longer line is skipped without being held in memory
TOO_LONG = ""  # what stands for such a line: every other one has at least its end
BUFFER_BYTES = 1 << 20

# How files begin that are no text in UTF-8 -> what they are, and what to do.
_NOT_TEXT = {
    rb"\x1f\x8b": "its bytes are gzip; let its name end in .gz",
    rb"\x28\xb5\x2f\xfd": "its bytes are zstd; let its name end in .zst",
    rb"BZh[1-9]1AY": "its bytes are bzip2; let its name end in .bz2",
    rb"PAR1": "its bytes are parquet; set source.format=parquet",
    rb"PK\x03\x04": "its bytes are a zip archive or a spreadsheet; save it as csv",
    rb"\xff\xfe|\xfe\xff": "its text is UTF-16; save it as UTF-8",
}


@contextmanager
def open_text(
    filesystem: pyarrow.fs.FileSystem, file: str, *, only_line_feeds: bool = False
) -> Iterator[Iterator[str]]:
    """Open a text file.

    Args:
        filesystem: Where the file is.
        file: Its path there.
        only_line_feeds: A carriage return alone does not end a line, as in jsonl.

    Yields:
        The lines, each with its end, or TOO_LONG.

    Raises:
        InputError: The file begins as no text does.
    """
    with filesystem.open_input_stream(file, compression=table_files.compression_of(file)) as stream:
        buffered = io.BufferedReader(stream, BUFFER_BYTES)  # type: ignore[arg-type] (pyarrow's files have readinto)
        start = buffered.peek(8)[:8]
        for magic, meaning in _NOT_TEXT.items():
            if re.match(magic, start):
                raise InputError(f"{file}: not a text file: {meaning}")
        newline = "\n" if only_line_feeds else ""
        text = io.TextIOWrapper(buffered, encoding="utf-8-sig", errors="replace", newline=newline)
        yield _lines(text)


def _lines(text: io.TextIOWrapper) -> Iterator[str]:
    while line := text.readline(MAX_LINE):
        if not _is_cut(line):
            yield line
            continue
        while _is_cut(line):
            line = text.readline(MAX_LINE)
        yield TOO_LONG


def _is_cut(line: str) -> bool:
    return len(line) == MAX_LINE and not line.endswith(("\n", "\r"))
