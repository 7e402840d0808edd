"""Whatever a server sends: bytes within the limit or a named reason, in time, without a word on the terminal."""

import gzip
import re
import time
import zlib
from collections.abc import Iterator
from email.message import Message

import brotli
import pytest
import web
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from emage.data.ingest.download import fetch, robots_tag
from emage.data.ingest.download.fetch import FetchLimits
from emage.data.ingest.download.fetch_error import FetchError
from emage.data.ingest.drop_reasons import EXPLANATIONS

LIMITS = FetchLimits(timeout_s=2.0, max_bytes=20_000, allow_private_hosts=True)
MAX_SECONDS = 2 * LIMITS.timeout_s  # the machines of tests are shared
BODY = bytes(range(256)) * 20
PACKED = {
    "": BODY,
    "gzip": gzip.compress(BODY),
    "deflate": zlib.compress(BODY),
    "br": brotli.compress(BODY),
    "zstd": zstd.compress(BODY),
    "identity, gzip": gzip.compress(BODY),
    "gzip, deflate": zlib.compress(gzip.compress(BODY)),
    "gzip, br, zstd": b"not packed",
}


def mostly(good: list[bytes], bad: list[bytes]) -> st.SearchStrategy[bytes]:
    return st.sampled_from([*good * (1 + 9 * len(bad) // len(good)), *bad])


statuses = mostly(
    [b"200 OK", b"200 OK", b"200", b"201 Created", b"206 Partial Content", b"103 Early Hints", b"302 Found"],
    [b"100 Continue", b"404 Not Found", b"304 Not Modified", b"999 ?", b"-200 OK", b"0 OK", b"2OO"],
)
versions = mostly([b"HTTP/1.1", b"HTTP/1.0"], [b"HTTP/1.2", b"HTTP/2", b"http/1.1", b"ICY", b"HTTP/", b""])
breaks = mostly([b"\r\n"], [b"\n", b"\r"])
numbers = st.one_of(
    st.integers(-2, 30_000).map(str), st.sampled_from(["", "abc", "5, 5", "5, 6", "1e3", "0x10", "٣", "9" * 5000])
)
values = st.text(st.characters(codec="latin-1", exclude_characters="\n"), max_size=40)
headers = st.one_of(
    st.tuples(st.just("Content-Length"), numbers),
    st.tuples(st.just("Transfer-Encoding"), st.sampled_from(["chunked", "CHUNKED", "gzip, chunked", "identity", "x"])),
    st.tuples(st.just("Content-Encoding"), st.sampled_from([*PACKED, "compress", ",,", "gzip," * 9, "GZIP;q=1"])),
    st.tuples(
        st.just("Content-Range"), st.sampled_from(["bytes 0-5119/5120", "bytes 0-4/5", "bytes */9", "bytes 0-1/*"])
    ),
    st.tuples(
        st.just("Location"),
        st.sampled_from(["/", "", "//", "http://[", "http://[::1", "?q", "#", "\\", "/é", "http://[::1]:25/", "x:"]),
    ),
    st.tuples(st.just("X-Robots-Tag"), st.one_of(values, st.sampled_from(["noai", "googlebot: noai"]))),
    st.tuples(st.text(st.characters(codec="ascii", exclude_characters="\n"), max_size=12), values),
).map(lambda header: ": ".join(header).encode("latin-1", "replace"))
lines = st.one_of(headers, st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"") or b"x"))


@st.composite
def chunks(draw: st.DrawFn, body: bytes) -> bytes:
    """Return a body in chunks, one of which may state another size."""
    size = draw(st.integers(1, len(body)))
    parts = [body[i : i + size] for i in range(0, len(body), size)][:50]
    stated = [b"%x" % len(part) for part in parts]
    if draw(st.booleans()):
        stated[draw(st.integers(0, len(parts) - 1))] = draw(
            st.sampled_from([b"", b"-1", b"zz", b"fffffff", b"0", b" 5;a"])
        )
    return b"".join(b"%s\r\n%s\r\n" % pair for pair in zip(stated, parts, strict=True)) + b"0\r\n\r\n"


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Return a response made of parts that servers send, good and bad ones, and then changed anywhere."""
    body = draw(st.sampled_from([*PACKED.values(), b""]).flatmap(lambda plain: st.one_of(
        st.just(plain), chunks(plain or b"x"), st.binary(max_size=100))))  # fmt: skip
    answer = b""
    for _ in range(draw(st.integers(1, 3))):
        answer += draw(versions) + b" " + draw(statuses) + draw(breaks)
        for line in draw(st.lists(lines, max_size=6)):
            answer += line + draw(breaks)
        answer += b"\r\n"
    answer += body
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(answer)))
        end = start + draw(st.integers(0, 20))
        answer = answer[:start] + draw(st.one_of(st.binary(max_size=20), st.just(answer[start:end] * 2))) + answer[end:]
    return answer


class Server:
    """A server whose every answer is `answer`."""

    def __init__(self) -> None:
        self.answer = b""
        self.address = ""

    def talk(self, connection) -> None:
        connection.recv(1 << 16)
        connection.sendall(self.answer)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    with web.listening(server.talk) as server.address:
        yield server


def outcome(server: Server, answer: bytes) -> bytes | str:
    """Return the bytes that arrive, or the drop reason."""
    server.answer = answer
    started = time.monotonic()
    try:
        return fetch.fetch(f"http://{server.address}/a", LIMITS, is_opted_out)
    except FetchError as error:
        return error.reason
    finally:
        assert time.monotonic() - started < MAX_SECONDS


def is_opted_out(headers: Message) -> bool:
    return robots_tag.is_opted_out(headers, "emage")


def check(outcome: bytes | str) -> None:
    if isinstance(outcome, bytes):
        assert 0 < len(outcome) <= LIMITS.max_bytes
    else:
        assert outcome in EXPLANATIONS or re.fullmatch(r"http_[2-9]\d\d", outcome)


@given(responses())
def test_any_response_is_bytes_or_a_named_reason(server, capfd, caplog, answer):
    check(outcome(server, answer))
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])


@given(st.binary(max_size=2000))
def test_any_bytes_are_bytes_or_a_named_reason(server, answer):
    check(outcome(server, answer))
    check(outcome(server, b"HTTP/1.1 200 OK\r\n" + answer))


@given(st.sampled_from([*PACKED]), st.integers(0, 20), st.data())
def test_any_damage_of_a_packed_body_is_bytes_or_a_named_reason(server, coding, size, data):
    body = bytearray(PACKED[coding])
    start = data.draw(st.integers(0, len(body)))
    body[start : start + size] = data.draw(st.binary(max_size=20))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {coding}\r\nContent-Length: {len(body)}\r\n\r\n"
    check(outcome(server, head.encode() + body))


@given(st.lists(lines, max_size=8), st.lists(lines, max_size=8), st.sampled_from(["noai", "max-snippet:9, none"]))
def test_no_lines_around_an_opt_out_hide_it(server, before, after, tag):
    head = [b"HTTP/1.1 200 OK", *before, f"X-Robots-Tag: {tag}".encode(), *after]
    found = outcome(server, b"\r\n".join([line.rstrip(b"\r") or b"x" for line in head]) + b"\r\n\r\n" + BODY)
    assert found in ("opted_out", "bad_response")
