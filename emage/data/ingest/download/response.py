"""HTTP responses: the final one behind all 1xx, and its body, unpacked, within limits of time, bytes and memory.

http.client reads the headers, urllib3 the body (chunks, lengths, Content-Encoding).
"""

import http.client
import io
import logging
import re
from collections.abc import Iterable
from typing import Any

import urllib3
from urllib3.exceptions import DecodeError

from emage.data.ingest.download.fetch_error import FetchError
from emage.data.ingest.download.memory_budget import SMALL_BYTES, Share
from emage.data.ingest.download.safe_connection import seconds_left

BLOCK_BYTES = 1 << 16  # read at a time
MAX_HEAD_BYTES = 1 << 18  # of status lines and headers, those of 1xx responses included; browsers allow as many
MAX_CODINGS = 5  # one on top of the other; servers send one, by mistake two
CODINGS = frozenset(urllib3.HTTPResponse.CONTENT_DECODERS)  # gzip, x-gzip, deflate, br, zstd
HEADER_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")

# What is wrong with a response is the drop reason of one row, not a line in the log of a million.
logging.getLogger("urllib3.response").setLevel(logging.ERROR)


class FinalResponse(http.client.HTTPResponse):
    """The response behind any number of 1xx responses (http.client itself passes over 100 only)."""

    def begin(self) -> None:
        """Read status and headers."""
        response: Any = self
        body, response.fp = self.fp, _Head(self.fp)
        try:
            super().begin()
            while 100 <= self.status < 200:
                response.headers = response.msg = None
                super().begin()
        finally:
            if self.fp is not None:  # else it was closed, because of an error
                response.fp = body


class _Head:
    """Status lines and headers of a response, line by line.

    The parser of http.client takes the first line that is not a header for the end of all, and would not see the
    headers behind it, an opt-out among them. Browsers pass over such lines, and so does this class.
    """

    def __init__(self, file: Any):
        self.file = file
        self.left = MAX_HEAD_BYTES
        self.is_status = True  # whether the next line is a status line
        self.is_passed_over = True  # whether the last header was

    def readline(self, limit: int = -1) -> bytes:
        while True:
            line = self.file.readline(limit)
            self.left -= len(line)
            if self.left < 0:
                raise http.client.LineTooLong("headers")
            if self.is_status or line in (b"\r\n", b"\n", b""):
                self.is_status = not self.is_status
                self.is_passed_over = True
                return line
            is_continued = line[:1] in (b" ", b"\t")
            if not is_continued:
                name, colon, value = line.partition(b":")
                name = name.rstrip(b" \t")
                self.is_passed_over = not colon or not HEADER_NAME.fullmatch(name)
                line = name + colon + value
            if not self.is_passed_over:
                return line.rstrip(b"\r\n").replace(b"\r", b" ") + b"\r\n"

    def close(self) -> None:
        self.file.close()


def read_body(
    response: http.client.HTTPResponse, total: int | None, max_bytes: int, deadline: float, memory: Share
) -> bytes:
    """Return a response's body, unpacked.

    Args:
        response: With the headers read.
        total: The length in bytes that the body must have as it is sent, or None if any will do.
        max_bytes: Of the body, as it is sent and unpacked.
        deadline: A time of time.monotonic().
        memory: What a large body needs is taken from it, and what it keeps stays taken.

    Raises:
        FetchError: too_big, connection_error, empty or bad_response.
        Exception: Of http.client, urllib3 or a socket, among them TimeoutError.
    """
    codings = _codings(response.headers.get_all("Content-Encoding", []))
    framing = [(name, value) for name, value in response.headers.items() if name.lower() != "content-encoding"]
    file: Any = response
    body = urllib3.HTTPResponse(
        file,
        urllib3.HTTPHeaderDict(framing),
        status=response.status,
        preload_content=False,
        decode_content=False,
        request_method="GET",
    )
    length = body.length_remaining
    if response.length is None:  # http.client does not read a list of equal lengths, which some proxies make
        file.length = length
    if (length or 0) > max_bytes:
        raise FetchError("too_big")
    needed = (max_bytes if length is None else length) + (max_bytes if codings else 0)
    sent = _collect(body.stream(BLOCK_BYTES), max_bytes, needed, deadline, memory)
    if total is not None and len(sent) != total:
        raise FetchError("connection_error")
    plain = _unpack(sent, codings, max_bytes, needed, deadline, memory) if codings else sent
    if not plain:
        raise FetchError("empty")
    memory.keep(len(plain) if len(plain) > SMALL_BYTES else 0)
    return plain


def _collect(blocks: Iterable[bytes], max_bytes: int, needed: int, deadline: float, memory: Share) -> bytes:
    file = io.BytesIO()  # unlike a list of blocks, it never holds them twice
    for block in blocks:
        size = file.tell() + len(block)
        if size > max_bytes:
            raise FetchError("too_big")
        if size > SMALL_BYTES:
            memory.take(needed, deadline)
        file.write(block)
    return file.getvalue()


def _codings(headers: list[str]) -> list[str]:
    """Return the codings of a body, outermost first. Names that stand for no change are left out.

    Raises:
        FetchError: bad_response, if they are too many: each could multiply the bytes by a thousand.
    """
    names = [name.partition(";")[0].strip().lower() for header in headers for name in str(header).split(",")]
    # Of unknown names only "compress" and the like change the bytes, which no server sends: then it is no image.
    codings = [name for name in names if name in CODINGS]
    if len(codings) > MAX_CODINGS:
        raise FetchError("bad_response")
    return codings[::-1]


def _unpack(data: bytes, codings: list[str], max_bytes: int, needed: int, deadline: float, memory: Share) -> bytes:
    """Undo codings, which some servers send unasked. Bytes that are not what a coding's name says stay as they are."""
    layer: Any = io.BytesIO(data)
    for coding in codings:
        file: Any = _Timed(layer, deadline)
        layer = urllib3.HTTPResponse(file, {"Content-Encoding": coding}, preload_content=False)
    started = False

    def blocks() -> Iterable[bytes]:
        nonlocal started
        while block := layer.read(BLOCK_BYTES):
            started = True
            yield block

    try:
        return _collect(blocks(), max_bytes, needed, deadline, memory)
    except DecodeError:
        if started:
            raise FetchError("bad_response") from None
        return data


class _Timed:
    """A file that cannot be read after the deadline: a body made for it could be unpacked for ever."""

    def __init__(self, file: Any, deadline: float):
        self.file = file
        self.deadline = deadline

    def read(self, size: int) -> bytes:
        seconds_left(self.deadline)
        return self.file.read(size)

    def close(self) -> None:
        pass
