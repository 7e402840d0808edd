"""The download of one URL: its bytes, from servers that may be slow or hostile. Only the standard library is used.

    1. The scheme must be http or https.
    2. Only public addresses are connected to (safe_connection.py).
    3. One deadline covers everything: resolving, connecting, TLS, headers, body, redirects.
    4. At most `max_bytes` are read, and decompression ends at `max_bytes` as well.
    5. A redirect starts again at 1. No cookies or passwords are sent.

Proxies named in the environment are not used: they would connect to addresses that were not checked here.
Every failure is a FetchError; its `reason` is the drop reason under which the row is counted.
"""

import http.client
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from emage.data.ingest import safe_connection

REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
BLOCK_BYTES = 1 << 16  # read at a time
UNQUOTED = "/%:=&?~#+!$,;'@()*[]"  # stays as it is in a path; the rest is percent-encoded, as browsers do
HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]+")  # a name, or an IPv6 address without a zone
RETRIED_AT_ONCE = ("timeout", "connection_error", "dns_error")
# Tried again in a retry round, hours later: those, and the statuses of servers that are busy for now.
RETRIED_LATER = (*RETRIED_AT_ONCE, *(f"http_{status}" for status in (408, 425, 429, 500, 502, 503, 504)))

IsOptedOut = Callable[[Message], bool]  # of the response's headers


class FetchError(Exception):
    """A URL that could not be downloaded.

    Attributes:
        reason: The drop reason: no_url, bad_url, bad_scheme, private_address, dns_error (no such name, or a resolver
            that does not answer), connection_error, tls_error, timeout, too_many_redirects, http_404 (any status),
            bad_response, too_big, empty or opted_out. drop_reasons.py explains each.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class FetchLimits:
    """The limits of a download: its time, its bytes and its hosts."""

    timeout_s: float = 10.0  # for the whole download, redirects included
    max_bytes: int = 50_000_000
    allow_private_hosts: bool = False
    user_agent: str = "emage"


def fetch(url: str | None, limits: FetchLimits, is_opted_out: IsOptedOut) -> bytes:
    """Return the bytes at a URL.

    Args:
        url: http or https; missing or empty is the drop reason no_url.
        limits: Time, size and hosts.
        is_opted_out: Called with the response's headers before the body is read; True ends the download.

    Raises:
        FetchError: With a drop reason, whatever the server did.
    """
    if not url:
        raise FetchError("no_url")
    deadline = time.monotonic() + limits.timeout_s
    try:
        for _ in range(MAX_REDIRECTS + 1):
            with _Request(url, limits, deadline) as request:
                if request.response.status not in REDIRECTS:
                    return _body(request.response, limits, is_opted_out)
                url = urljoin(url, _redirect_target(request.response))
        raise FetchError("too_many_redirects")
    except FetchError:
        raise
    except Exception as error:  # a hostile response can make the standard library raise anything
        raise FetchError(_reason(error)) from None


def _reason(error: Exception) -> str:
    """Return the drop reason of an error of the standard library. The order matters: most are subclasses of OSError."""
    if isinstance(error, safe_connection.PrivateAddressError):
        return "private_address"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, socket.gaierror):
        return "dns_error"
    if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "tls_error"
    if isinstance(error, (OSError, http.client.IncompleteRead)):  # the two SSL errors as well: a broken connection
        return "connection_error"
    if isinstance(error, ValueError):  # of urlsplit, the port or IDNA
        return "bad_url"
    return "bad_response"


def fetch_with_retries(url: str | None, limits: FetchLimits, is_opted_out: IsOptedOut, retries: int) -> bytes:
    """Call `fetch`, and up to `retries` times again if the failure is in RETRIED_AT_ONCE."""
    for retries_left in range(retries, -1, -1):
        try:
            return fetch(url, limits, is_opted_out)
        except FetchError as error:
            if error.reason not in RETRIED_AT_ONCE or not retries_left:
                raise
    raise AssertionError("unreachable")


class _Request:
    """One GET request: the connection and its response, closed together."""

    def __init__(self, url: str, limits: FetchLimits, deadline: float):
        parts, host, port = _split(url)
        is_tls = parts.scheme == "https"
        private = limits.allow_private_hosts
        self.socket = safe_connection.connect(host, port, deadline, is_tls=is_tls, allow_private_hosts=private)
        try:
            if is_tls:
                connection = http.client.HTTPSConnection(host, port, context=safe_connection.tls_context())
            else:
                connection = http.client.HTTPConnection(host, port)
            connection.sock = self.socket  # with a socket, it does not connect by itself
            self.socket.settimeout(safe_connection.seconds_left(deadline))
            # http.client adds Host, and Accept-Encoding: identity. Nothing of the URL's user:password@ is sent.
            headers = {"User-Agent": limits.user_agent, "Accept": "image/*,*/*;q=0.1"}
            connection.request("GET", _path_and_query(parts), headers=headers)
            self.response = connection.getresponse()
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> "_Request":
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self.socket.close()


def _body(response: http.client.HTTPResponse, limits: FetchLimits, is_opted_out: IsOptedOut) -> bytes:
    if response.status != 200:
        raise FetchError(f"http_{response.status}")
    if is_opted_out(response.headers):
        raise FetchError("opted_out")
    if (response.length or 0) > limits.max_bytes:
        raise FetchError("too_big")
    blocks: list[bytes] = []
    size = 0
    while block := response.read(BLOCK_BYTES):
        blocks.append(block)
        size += len(block)
        if size > limits.max_bytes:
            raise FetchError("too_big")
    if response.length:  # the connection ended before the announced number of bytes
        raise FetchError("connection_error")
    if not size:
        raise FetchError("empty")
    return _decompressed(b"".join(blocks), response.headers.get("Content-Encoding", ""), limits.max_bytes)


def _decompressed(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undo gzip or deflate, which some servers send unasked. Bytes that are neither stay as they are."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return data
    stream = zlib.decompressobj(zlib.MAX_WBITS | 32)  # accepts gzip's header and zlib's
    try:
        plain = stream.decompress(data, max_bytes + 1)  # a decompression bomb ends here
    except zlib.error:
        return data
    if len(plain) > max_bytes:
        raise FetchError("too_big")
    if not stream.eof:
        raise FetchError("connection_error")  # its end is missing
    return plain


def _redirect_target(response: http.client.HTTPResponse) -> str:
    """Return a redirect's URL. Some servers send UTF-8, which is not allowed there; http.client reads Latin-1."""
    location = response.headers.get("Location", "").strip()
    if not location:
        raise FetchError("bad_response")
    try:
        return location.encode("latin-1").decode()
    except UnicodeError:
        return location


def host_of(url: str) -> str:
    """Return the host that `fetch` would connect to, in ASCII. Raise ValueError or FetchError if the URL has none."""
    return _split(url)[1]


def _split(url: str) -> tuple[SplitResult, str, int]:
    """Return a URL's parts, its host in ASCII and its port. Raise ValueError or FetchError if one is not valid."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https"):
        raise FetchError("bad_scheme")
    host, port = parts.hostname or "", parts.port
    if not host.isascii():
        host = host[:254].encode("idna").decode()  # truncated, because it is slow on long names
    if not HOST.fullmatch(host) or port == 0:
        raise FetchError("bad_url")
    return parts, host, port or (443 if parts.scheme == "https" else 80)


def _path_and_query(parts: SplitResult) -> str:
    query = f"?{quote(parts.query, safe=UNQUOTED)}" if parts.query else ""
    return (quote(parts.path, safe=UNQUOTED) or "/") + query
