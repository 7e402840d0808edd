"""The filters of URL tables: conditions on a row's metadata, and block lists of URLs, hosts and md5 sums.

    where=["similarity>=0.3", "NSFW==UNLIKELY"]     a row is kept if every condition holds; a missing value fails
    block_urls, block_hosts, block_md5              lists of images that must not be downloaded, one entry per line

A list of URLs or of md5 sums is stored as sorted 64-bit hashes, 8 bytes per entry: with ten million entries, one row in
2 * 10^12 is blocked by mistake. A URL's host is parsed as the download parses it, so no spelling of it evades a list.
This module needs neither the network nor images.
"""

import gzip
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
from pandas.util import hash_array

from emage.data.ingest.download.fetch_error import FetchError
from emage.data.ingest.download.url import host_of
from emage.utils.errors import InputError

pc: Any = pyarrow.compute  # made at import, so that type checkers do not see its functions
CONDITION = re.compile(r"\s*(.+?)\s*(>=|<=|==|!=|>|<)\s*(.+?)\s*")
OPERATIONS = {
    ">=": pc.greater_equal,
    "<=": pc.less_equal,
    "==": pc.equal,
    "!=": pc.not_equal,
    ">": pc.greater,
    "<": pc.less,
}
NUMBER = r"^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$"
# The beginning of a URL up to the end of its host. urlsplit drops tabs and line breaks: they may separate the slashes.
AUTHORITY = r"^(?P<authority>[^/]*/[\t\r\n]*/[^/?#]*)"
MD5 = re.compile(r"[0-9a-fA-F]{32}")


# Conditions on metadata


@dataclass(frozen=True)
class Condition:
    """A condition on one column.

    Attributes:
        text: As it was written; also the drop reason of the rows that fail it.
        column: The name of the column.
        operation: A key of OPERATIONS.
        value: A number, or a text for == and !=.
    """

    text: str
    column: str
    operation: str
    value: float | str

    def holds(self, values: pa.Array) -> pa.Array:
        """Return booleans, False for a missing value and, if a number is compared, for a text that is not a number."""
        values = to_numbers(values) if isinstance(self.value, float) else values.cast(pa.string())
        return pc.fill_null(OPERATIONS[self.operation](values, pa.scalar(self.value, values.type)), False)


def parse_condition(text: str) -> Condition:
    """Parse a condition such as "similarity>=0.3". Raise InputError if the text is not a condition."""
    parts = CONDITION.fullmatch(text)
    if parts is None:
        raise InputError(f"source.where: {text!r} is not a condition; write it like similarity>=0.3 or NSFW==UNLIKELY")
    column, operation, value = parts.groups()
    try:
        return Condition(text, column, operation, float(value))
    except ValueError:
        if operation in ("==", "!="):
            return Condition(text, column, operation, value)
        raise InputError(f"source.where: in {text!r}, {value!r} is not a number") from None


def lacks_numbers(values: pa.Array) -> bool:
    """Return True if a column has values and none is a number. An empty text, as in csv, is a missing value."""
    is_value = pc.not_equal(pc.utf8_trim_whitespace(values.cast(pa.string())), "")
    return bool(pc.any(is_value).as_py()) and to_numbers(values).null_count == len(values)


def to_numbers(values: pa.Array) -> pa.Array:
    """Return any column as float64, null for what is not a number."""
    if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
        return values.cast(pa.float64(), safe=False)
    trimmed = pc.utf8_trim_whitespace(values)
    is_number = pc.match_substring_regex(trimmed, NUMBER)
    return pc.if_else(is_number, trimmed, pa.scalar(None, trimmed.type)).cast(pa.float64())


# Block lists


@dataclass(frozen=True)
class BlockLists:
    """The entries of all block lists, for fast look-up.

    Attributes:
        urls: (n,) uint64, sorted: see `hash_texts`.
        hosts: Host names; each blocks its subdomains as well.
        md5: (n,) uint64, sorted: see `md5_keys`.
    """

    urls: np.ndarray
    hosts: frozenset[str]
    md5: np.ndarray

    def match(self, urls: pa.Array, md5: pa.Array | None) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (drop reason, one boolean per row: True if it is blocked) for each list that is not empty."""
        if len(self.urls):
            yield "blocked_url", is_in(self.urls, hash_texts(pc.utf8_trim_whitespace(urls)))
        if self.hosts:
            yield "blocked_host", self._blocked_hosts(urls)
        if len(self.md5) and md5 is not None:
            yield "blocked_md5", is_in(self.md5, md5_keys(md5.to_pylist()))

    def _blocked_hosts(self, urls: pa.Array) -> np.ndarray:
        starts = pc.struct_field(pc.extract_regex(urls, AUTHORITY), "authority").dictionary_encode()
        blocked = np.array([self._is_blocked(start) for start in starts.dictionary.to_pylist()] + [False])
        return blocked[pc.fill_null(starts.indices, len(blocked) - 1).to_numpy(zero_copy_only=False)]

    def _is_blocked(self, url: str) -> bool:
        """Return True if a listed host is the URL's or a domain above it; False for a URL that is never fetched."""
        try:
            labels = _host(url).split(".")
        except FetchError:
            return False
        return any(".".join(labels[i:]) in self.hosts for i in range(len(labels)))


def read_block_lists(urls: Sequence[str], hosts: Sequence[str], md5: Sequence[str]) -> BlockLists:
    """Read the files of the block lists: text (or .gz), one entry per line, # for comments.

    Raises:
        InputError: A file cannot be read, or an entry is not a host or an md5 sum.
    """
    sums = list(_entries(md5, "select.block_md5"))
    if wrong := next((entry for entry in sums if not MD5.fullmatch(entry)), None):
        raise InputError(f"select.block_md5: {wrong[:80]!r} is not an md5 sum of 32 hexadecimal digits")
    return BlockLists(
        np.sort(hash_texts(pa.array(_entries(urls, "select.block_urls"), pa.string()))),
        frozenset(_listed_host(entry) for entry in _entries(hosts, "select.block_hosts")),
        np.sort(md5_keys(sums)),  # no key is 0, which marks a missing sum
    )


def _entries(files: Sequence[str], key: str) -> Iterator[str]:
    for file in files:
        try:
            opener = gzip.open if file.endswith(".gz") else open
            with opener(file, "rt", encoding="utf-8-sig") as lines:
                entries = (line.strip() for line in lines)
                yield from (entry for entry in entries if entry and not entry.startswith("#"))
        except (OSError, UnicodeDecodeError, EOFError) as error:
            raise InputError(f"{file}: not a readable list ({key}): {error}") from None


def _listed_host(entry: str) -> str:
    """Return wild.net for "*.wild.net", ".wild.net" and "wild.net.". Raise InputError if the entry is not a host."""
    name = entry.removeprefix("*.").strip(".")
    try:
        if ":" in name:  # only an IPv6 address has colons, with brackets or without
            return _host(f"http://[{name.strip('[]')}]")
        if not re.search(r"[/?#@]", name):
            return _host(f"http://{name}")
    except FetchError:
        pass
    raise InputError(
        f"select.block_hosts: {entry[:80]!r} is not a host; write it like example.com, without https:// or port"
    )


def _host(url: str) -> str:
    """Return the host that the download asks, without a dot at its end. Raise FetchError if the URL has none."""
    return host_of(url).rstrip(".")


def hash_texts(texts: pa.Array) -> np.ndarray:
    """Return (n,) uint64 hashes of texts, the same on every machine; a missing text has the hash of an empty one."""
    untyped: Any = hash_array  # its type stub lacks an argument
    return untyped(pc.fill_null(texts, "").to_numpy(zero_copy_only=False), categorize=False)


def md5_keys(sums: Sequence[str | None]) -> np.ndarray:
    """Return (n,) uint64: the first 8 bytes of each md5 sum (at least 1), or 0 for a text that is not an md5 sum."""
    return np.array([max(1, int(text[:16], 16)) if text and MD5.fullmatch(text) else 0 for text in sums], np.uint64)


def is_in(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return one boolean per value: True if it is in `known`, which is sorted."""
    positions = np.searchsorted(known, values)
    return known[np.minimum(positions, len(known) - 1)] == values
