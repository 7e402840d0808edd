"""Hostile clients: bytes over a plain socket, one at a time, too many, too few, never complete."""

import base64
import io
import json
import socket
import struct
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from PIL import Image

GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
GOOD = json.dumps({"prompt": "a red square", "seed": 7, "steps": 2}).encode()
AT_ONCE_S = 5.0  # generous for a busy machine; a server that waits for the client takes longer


class Answer(NamedTuple):
    """An answer; status None: the connection was closed without one."""

    status: int | None
    body: bytes
    seconds: float

    @property
    def error(self) -> dict[str, Any]:
        """The error in the API's form; any other form fails the test."""
        error = json.loads(self.body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert "\n" not in error["message"] and "Traceback" not in error["message"] and len(error["message"]) < 2_000
        return error


class Silence(AssertionError):
    """The server neither answered nor closed the connection in time."""


def connect(url: str) -> socket.socket:
    there = urlsplit(url)
    return socket.create_connection((there.hostname, there.port), timeout=10)


def head(path: str = GENERATIONS, method: str = "POST", **headers: object) -> bytes:
    """Return a request's first lines; `headers` have _ for -, and None for one that is left out."""
    values: dict[str, object] = {"Host": "127.0.0.1", "Content_Type": "application/json", **headers}
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in values.items() if value is not None]
    return "\r\n".join([f"{method} {path} HTTP/1.1", *lines, "", ""]).encode("latin-1")


def send(url: str, data: bytes, *, within: float = 10.0, finish: bool = False) -> Answer:
    """Send data and wait for the answer; `finish`: close the sending side."""
    return drip(url, [data], within=within, finish=finish)


def drip(
    url: str, pieces: Iterable[bytes], *, every: float = 0.0, within: float = 10.0, finish: bool = False
) -> Answer:
    """Send a piece every `every` seconds until there is an answer, and wait for it no longer than `within`."""
    started = time.monotonic()
    with connect(url) as connection:
        with suppress(ConnectionError):  # the server may stop reading
            for piece in pieces:
                connection.sendall(piece)
                if every and _readable(connection, every):
                    break
                if time.monotonic() - started > within:
                    raise Silence(f"after {within} s")
            if finish:
                with suppress(OSError):  # the server may have closed it
                    connection.shutdown(socket.SHUT_WR)
        status, body = _read(connection, started + within)
    return Answer(status, body, time.monotonic() - started)


def post(url: str, body: bytes, path: str = GENERATIONS, **headers: object) -> Answer:
    """Send a valid request with any body."""
    length: dict[str, object] = {"Content_Length": len(body), "Connection": "close"}
    return send(url, head(path, **{**length, **headers}) + body)


@contextmanager
def held_open(url: str, count: int, data: bytes = b"") -> Iterator[list[socket.socket]]:
    """Hold `count` connections open that send this and then nothing."""
    connections: list[socket.socket] = []
    try:
        for _ in range(count):
            connections.append(connect(url))
            connections[-1].sendall(data)
        yield connections
    finally:
        for connection in connections:
            connection.close()


def _readable(connection: socket.socket, seconds: float) -> bool:
    """Return whether something arrived, or the connection ended, in this time."""
    connection.settimeout(seconds)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except TimeoutError:
        return False
    return True


def _read(connection: socket.socket, deadline: float) -> tuple[int | None, bytes]:
    """Return status and body of the answer, up to its end or the connection's."""
    data = b""
    try:
        while not _is_complete(data):
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            piece = connection.recv(1 << 16)
            if not piece:
                break
            data += piece
    except ConnectionError:  # it was closed with something unread
        pass
    except TimeoutError:
        raise Silence(f"so far: {data[:200]!r}") from None
    if not data:
        return None, b""
    first, _, rest = data.partition(b"\r\n\r\n")
    return int(first.split()[1]), rest


def _is_complete(data: bytes) -> bool:
    first, found, rest = data.partition(b"\r\n\r\n")
    lines = dict(line.lower().split(b":", 1) for line in first.split(b"\r\n")[1:] if b":" in line)
    if not found:
        return False
    return len(rest) >= int(lines[b"content-length"]) if b"content-length" in lines else rest.endswith(b"0\r\n\r\n")


# --- What a test asserts ----------------------------------------------------------------------------------------------


def is_served(url: str) -> None:
    """Assert that a normal request gets its image soon."""
    answer = post(url, GOOD)
    assert answer.status == 200, answer
    image = Image.open(io.BytesIO(base64.b64decode(json.loads(answer.body)["data"][0]["b64_json"])))
    assert image.size == (64, 64)
    assert answer.seconds < AT_ONCE_S


def is_rejected(answer: Answer, *statuses: int) -> None:
    """Assert a rejection in the API's form, soon, with one of these statuses (any 4xx if none is given)."""
    assert answer.status is not None, "disconnected"
    assert answer.status in (statuses or range(400, 500)), answer
    assert answer.error["message"]
    assert answer.seconds < AT_ONCE_S


# --- Bodies -----------------------------------------------------------------------------------------------------------


def form(*parts: tuple[str, bytes], boundary: str = "b", end: bool = True) -> bytes:
    """Return a multipart body; each part is (what follows `form-data`, content)."""
    lines = [
        f"--{boundary}\r\nContent-Disposition: form-data{about}\r\n\r\n".encode() + content + b"\r\n"
        for about, content in parts
    ]
    return b"".join(lines) + (f"--{boundary}--\r\n".encode() if end else b"")


def bomb(side: int) -> bytes:
    """Return a decompression bomb: a PNG of side x side black pixels (side a multiple of 100), 1,000 times smaller."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    rows = packer.compress(bytes(100 * (side + 1))) + packer.flush(zlib.Z_FULL_FLUSH)  # each with its filter's number
    adler = side * (side + 1) % 65_521 << 16 | 1  # of so many zeros
    pixels = b"\x78\xda" + rows * (side // 100) + b"\x03\x00" + struct.pack(">I", adler)
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", pixels), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
