"""HTTP responses: informational ones before the real one, lines that are no headers, bodies and their codings."""

import gzip
import random
import time
import zlib

import brotli
import pytest
import web
from backports import zstd
from one_download import never_opted_out

from emage.data.ingest.download import fetch, robots_tag
from emage.data.ingest.download.fetch import FetchLimits
from emage.data.ingest.download.fetch_error import FetchError

LIMITS = FetchLimits(timeout_s=30, max_bytes=100_000, allow_private_hosts=True)
BODY = bytes(range(256)) * 100
HALF = len(BODY) // 2


def fetch_raw(answer: bytes, limits: FetchLimits = LIMITS, *, opting_out: bool = False) -> bytes:
    """Return what the download makes of a server's bytes."""

    def talk(connection) -> None:
        connection.recv(1 << 16)
        connection.sendall(answer)

    with web.listening(talk) as address:
        robot = (lambda headers: robots_tag.is_opted_out(headers, "emage")) if opting_out else never_opted_out
        return fetch.fetch(f"http://{address}/a", limits, robot)


def reason(answer: bytes, limits: FetchLimits = LIMITS, *, opting_out: bool = False) -> str:
    with pytest.raises(FetchError) as error:
        fetch_raw(answer, limits, opting_out=opting_out)
    return error.value.reason


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(body: bytes, *headers: str, size: int = 1000) -> bytes:
    chunks = [body[i : i + size] for i in range(0, len(body), size)]
    head = "\r\n".join(["HTTP/1.1 200 OK", *headers, "", ""]).encode()
    return head + b"".join(b"%x;name=value\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


# Statuses


@pytest.mark.parametrize("statuses", [(100,), (102,), (103,), (101,), (199,), (100, 103, 103, 100, 102)])
def test_the_image_is_behind_informational_responses(statuses):
    """Their headers are not those of the image: neither its length nor an opt-out."""
    hints = [f"HTTP/1.1 {status} Hint\r\nLink: </a.css>\r\nContent-Length: 3\r\n\r\n" for status in statuses]
    assert fetch_raw("".join(hints).encode() + answer(BODY)) == BODY
    assert reason("".join(hints).encode() + answer(b"", status="404 Not Found")) == "http_404"
    assert reason("".join(hints).encode()) == "connection_error"


def test_informational_responses_without_end_are_rejected():
    assert reason(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" * 10_000) == "bad_response"
    assert reason(b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000) == "bad_response"


@pytest.mark.parametrize("status", ["200 OK", "200", "201 Created", "203 Non-Authoritative Information"])
def test_statuses_with_an_image(status):
    assert fetch_raw(answer(BODY, status=status)) == BODY


def test_a_partial_response_counts_if_it_is_the_whole_file():
    whole = f"Content-Range: bytes 0-{len(BODY) - 1}/{len(BODY)}"
    assert fetch_raw(answer(BODY, whole, status="206 Partial Content")) == BODY
    assert (
        fetch_raw(chunked(BODY, "Transfer-Encoding: chunked").replace(b"200 OK", b"206 OK\r\n" + whole.encode()))
        == BODY
    )
    part = f"Content-Range: bytes 0-{HALF - 1}/{len(BODY)}"
    assert reason(answer(BODY[:HALF], part, status="206 Partial Content")) == "http_206"
    assert reason(answer(BODY[:HALF], whole, status="206 Partial Content")) == "connection_error"
    assert reason(answer(BODY, status="206 Partial Content")) == "http_206"


@pytest.mark.parametrize("status", [202, 204, 226, 300, 304, 305, 401, 403, 404, 429, 451, 500, 503, 522, 999])
def test_other_statuses_are_reasons(status):
    assert reason(answer(b"<p>", status=f"{status} no")) == f"http_{status}"


# Headers


@pytest.mark.parametrize(
    "line",
    [
        *("a line without a colon", ": no name", "bad name: a", "X-A: a\rno colon", "X-A: a\x0bb\x85c", "\u00e4: b"),
        *(" a continuation of nothing", "no colon\r\n and its continuation: b", "X-A: a\r\n folded", "(x): y"),
    ],
)
def test_an_opt_out_is_seen_behind_lines_that_are_no_headers(line):
    assert reason(answer(BODY, line, "X-Robots-Tag: noai"), opting_out=True) == "opted_out"
    assert fetch_raw(answer(BODY, line), opting_out=True) == BODY  # the length behind it is seen as well


@pytest.mark.parametrize(
    "header", ["x-robots-tag:noai", "X-Robots-Tag : noai", "X-ROBOTS-TAG:\tnoai", "X-Robots-Tag: a,\r\n noai"]
)
def test_an_opt_out_is_seen_in_every_spelling_of_its_header(header):
    assert reason(answer(BODY, header), opting_out=True) == "opted_out"


@pytest.mark.parametrize(
    "head",
    [
        *(b"no HTTP at all\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n", b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/2 200 OK\r\n\r\n"),
        *(b"ICY 200 OK\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"\r\n"),
        *(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"no header\r\n" * 30_000),
        b"HTTP/1.1 200 OK\r\n" + (b"X: " + b"y" * 60_000 + b"\r\n") * 6 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
    ],
)
def test_what_is_no_http_is_a_bad_response(head):
    assert reason(head) == "bad_response"


# Bodies


@pytest.mark.parametrize("header", ["chunked", "Chunked", "gzip, chunked", "chunked, chunked"])
def test_chunks(header):
    assert fetch_raw(chunked(BODY, f"Transfer-Encoding: {header}")) == BODY
    assert fetch_raw(chunked(BODY, f"Transfer-Encoding: {header}", "Content-Length: 7")) == BODY


def test_a_connection_that_ends_early_is_a_connection_error():
    whole = chunked(BODY, "Transfer-Encoding: chunked")
    assert [reason(whole[:end]) for end in (-1500, -1011, -5)] == ["connection_error"] * 3
    assert reason(answer(BODY)[:-1]) == "connection_error"
    assert fetch_raw(b"HTTP/1.0 200 OK\r\n\r\n" + BODY) == BODY  # its end is that of the connection


def test_equal_lengths_are_one():
    size = len(BODY)
    for lengths in (f"Content-Length: {size}, {size}", f"Content-Length: {size}\r\nContent-Length: {size}"):
        head = f"HTTP/1.1 200 OK\r\n{lengths}\r\n\r\n".encode()
        assert fetch_raw(head + BODY + b"what follows on the connection") == BODY
        assert reason(head + BODY[:-1]) == "connection_error"


def test_chunks_of_no_size_are_a_bad_response():
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert [reason(head + size) for size in (b"xyz\r\nabc", b"1" * 100_000)] == ["bad_response"] * 2


def deflate(data: bytes, wbits: int = -zlib.MAX_WBITS) -> bytes:
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        *(("gzip", gzip.compress(BODY)), ("x-gzip", gzip.compress(BODY)), ("GZip", gzip.compress(BODY))),
        ("gzip", gzip.compress(BODY[:HALF]) + gzip.compress(BODY[HALF:])),  # two members
        ("gzip", b"".join(gzip.compress(BODY[i : i + 100]) for i in range(0, len(BODY), 100))),
        ("gzip", gzip.compress(BODY) + b"garbage behind it"),
        *(("deflate", zlib.compress(BODY)), ("deflate", deflate(BODY)), ("br", brotli.compress(BODY))),
        *(("zstd", zstd.compress(BODY)), ("zstd", zstd.compress(BODY[:HALF]) + zstd.compress(BODY[HALF:]))),
        *(("identity", BODY), ("", BODY), ("none", BODY), ("utf-8", BODY), ("identity, identity", BODY)),
        *(("identity, gzip", gzip.compress(BODY)), ("gzip, identity", gzip.compress(BODY))),
        *((",gzip ,", gzip.compress(BODY)), ("aws-chunked,gzip", gzip.compress(BODY))),
        ("deflate, gzip", gzip.compress(zlib.compress(BODY))),  # in the order in which they were applied
        ("gzip, deflate, br", brotli.compress(deflate(gzip.compress(BODY)))),
        ("gzip, gzip", gzip.compress(gzip.compress(BODY))),
        ("gzip", BODY),  # not true
        *(("deflate", BODY), ("br", b"\xff\xd8\xff" + BODY), ("zstd", BODY)),
    ],
)
def test_codings(coding, body):
    expected = body if body.endswith(BODY) else BODY
    assert fetch_raw(answer(body, f"Content-Encoding: {coding}")) == expected
    assert fetch_raw(chunked(body, "Transfer-Encoding: chunked", f"Content-Encoding: {coding}")) == expected


def test_several_headers_are_one_list():
    packed = gzip.compress(deflate(BODY))
    assert fetch_raw(answer(packed, "Content-Encoding: deflate", "Content-Encoding: identity, gzip")) == BODY


PACKERS = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress, "zstd": zstd.compress}


@pytest.mark.parametrize("coding", PACKERS)
@pytest.mark.parametrize("times", [1, 2])
def test_a_bomb_ends_at_the_limit(coding, times):
    bomb = bytes(20_000_000)
    for _ in range(times):
        bomb = PACKERS[coding](bomb)
    assert reason(answer(bomb, f"Content-Encoding: {', '.join([coding] * times)}")) == "too_big"


def test_bytes_without_a_result_end_at_the_deadline():
    """A hundred kilobytes become a hundred megabytes of gzip members, and those nothing at all."""
    nothing = gzip.compress(gzip.compress(b"") * 5_000_000)
    started = time.monotonic()
    assert reason(answer(nothing, "Content-Encoding: gzip, gzip"), FetchLimits(0.5, 10**7, True)) == "timeout"
    assert time.monotonic() - started < 5


def test_a_list_without_end_is_rejected():
    assert reason(answer(BODY, "Content-Encoding: " + ", ".join(["gzip"] * 6))) == "bad_response"


def test_a_body_that_is_damaged_inside_is_a_bad_response():
    noise = random.Random(0).randbytes(90_000)
    packed = bytearray(gzip.compress(noise))
    packed[-1000:] = bytes(1000)
    assert reason(answer(bytes(packed), "Content-Encoding: gzip")) == "bad_response"
