"""Sizes of the pages of a parquet file, from the header that stands before each page.

pyarrow unpacks a page as a whole, and a page of a few bytes may unpack to 2 GB. The file's footer says nothing about
pages, and its sums may be wrong. Pages are not unpacked here.
"""

from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

FIRST_READ = 1_024  # bytes of a header; one with long statistics needs more
MAX_HEADER = 16 << 20  # bytes; pyarrow reads no longer one

# Numbers of the format (parquet.thrift): types of pages, encodings, and fields of a PageHeader.
_DATA, _DICTIONARY, _DATA_V2 = 0, 2, 3
_BY_DICTIONARY = {2, 8}  # PLAIN_DICTIONARY, RLE_DICTIONARY
_DELTA_BYTE_ARRAY = 7  # a value is a part of the value before it, and a suffix
_TYPE, _UNPACKED, _PACKED = 1, 2, 3
_DETAILS = {_DATA: (5, 2), _DATA_V2: (8, 4)}  # type -> fields of its own header, and of the encoding therein
_NUM_VALUES = 1


@dataclass
class Pages:
    """The pages of one column in one row group.

    Attributes:
        dictionary: Bytes of the dictionary.
        data: (values, bytes) of each data page.
        copied: Bytes of the largest page whose values are parts of each other: each may be as long as the page.
        plain: Bytes of the pages whose values are not in the dictionary.
        indices: Values that are in the dictionary.
    """

    dictionary: int = 0
    data: list[tuple[int, int]] = field(default_factory=list)
    copied: int = 0
    plain: int = 0
    indices: int = 0

    @property
    def total(self) -> int:
        """Bytes of all pages."""
        return self.dictionary + sum(size for _, size in self.data)

    @property
    def largest(self) -> int:
        """Bytes of the largest data page."""
        return max((size for _, size in self.data), default=0)

    def most(self, rows: int) -> int:
        """Return the bytes of the pages that a batch of so many rows, of a value each, can touch, at most."""
        most = size = inner = start = 0  # of pages start to end; inner: values of those between the two
        for end, (_, added) in enumerate(self.data):
            size += added
            inner += self.data[end - 1][0] if end - 1 > start else 0
            while start < end and inner > rows - 2:
                size -= self.data[start][1]
                start += 1
                inner -= self.data[start][0] if start < end else 0
            most = max(most, size)
        return most


def read(stream: pa.NativeFile, chunk: pq.ColumnChunkMetaData) -> Pages:
    """Return the pages of a column chunk. Raises ValueError if the header of one is damaged."""
    pages, values = Pages(), 0
    # As pyarrow finds them.
    at = min(filter(None, (chunk.dictionary_page_offset, chunk.data_page_offset)), default=0)
    end = at + chunk.total_compressed_size
    while at < end and values < chunk.num_values:
        header, length = _read_header(stream, at)
        kind, size, packed = header.get(_TYPE), header.get(_UNPACKED, -1), header.get(_PACKED, -1)
        if size < 0 or packed < 0:
            raise ValueError(f"the header of a page at byte {at:,} is damaged")
        at += length + packed
        if kind == _DICTIONARY:
            pages.dictionary += size
        elif kind in _DETAILS:
            own, encoding = _DETAILS[kind]
            details = header.get(own, {})
            num_values = details.get(_NUM_VALUES, 0)
            pages.data.append((num_values, size))
            values += num_values
            if details.get(encoding) in _BY_DICTIONARY:
                pages.indices += num_values
            else:
                pages.plain += size
            if details.get(encoding) == _DELTA_BYTE_ARRAY:
                pages.copied = max(pages.copied, size)
    return pages


def _read_header(stream: pa.NativeFile, at: int) -> tuple[dict[int, Any], int]:
    """Return the fields of the page header at a place of the file, by number, and its length."""
    length = FIRST_READ
    while True:
        stream.seek(at)
        data = stream.read(length)
        try:
            reader = _CompactReader(data)
            return reader.struct(), reader.at
        except (IndexError, AttributeError, TypeError, RecursionError):
            if len(data) < length or length >= MAX_HEADER:
                raise ValueError(f"the header of a page at byte {at:,} is damaged") from None
            length *= 16


class _CompactReader:
    """Values in Thrift's compact protocol. Texts and doubles are skipped: None."""

    def __init__(self, data: bytes):
        self.data, self.at = data, 0

    def struct(self) -> dict[int, Any]:
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._integer()
            kind = head & 15
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind)
        return fields

    def _value(self, kind: int) -> Any:
        if kind == 12:
            return self.struct()
        if kind in (4, 5, 6):
            return self._integer()
        if kind in (9, 10):
            self._skip_list()
        elif kind == 11:
            self._skip_map()
        elif kind == 8:
            self._skip(self._varint())
        elif kind == 7:
            self._skip(8)
        elif kind in (1, 2, 3):
            self._skip(1)
        else:
            raise TypeError(kind)
        return None

    def _skip_list(self) -> None:
        head = self._byte()
        for _ in range(self._varint() if head >> 4 == 15 else head >> 4):
            self._value(head & 15)

    def _skip_map(self) -> None:
        if size := self._varint():
            kinds = self._byte()
            for _ in range(size):
                self._value(kinds >> 4)
                self._value(kinds & 15)

    def _skip(self, count: int) -> None:
        self.at += count
        if self.at > len(self.data):
            raise IndexError

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while shift < 70:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise TypeError("no number is so long")

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
