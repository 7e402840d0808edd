"""One URL -> its bytes, from servers that are slow, hostile or both. Standard library only; no images here.

    1. The scheme must be http or https.
    2. The host is resolved, every address it has must be public, and the connection goes to the address that was
       checked: a name that answers differently a second time (DNS rebinding) is never asked a second time.
    3. One deadline covers everything: names, connecting, TLS, headers, body, redirects.
    4. At most `max_bytes` are read, and no more come of unpacking them.
    5. A redirect starts again at 1. It brings no cookies and no passwords along.

Proxies named in the environment are not asked: they would connect to addresses that nobody here has checked.
Whatever goes wrong has a short name, `FetchError.cause`, by which it is counted.
"""

import functools
import http.client
import ipaddress
import math
import re
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from email.message import Message
from urllib.parse import SplitResult, quote, urljoin, urlsplit

REDIRECTS = (301, 302, 303, 307, 308)
MAX_REDIRECTS = 5
BLOCK = 1 << 16
SAFE = "/%:=&?~#+!$,;'@()*[]"  # left alone in a path; the rest is percent-encoded, as browsers do
HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|[0-9A-Fa-f:.]+")  # a name, or an IPv6 address without a zone
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # carries an IPv4 address in its last 32 bits
LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # of one site alone (RFC 8215); Python 3.11 calls it global
LOOK_UPS = 256  # names at once; those that the system's resolver is slow to give up need room beside the others
TRANSIENT = ("timeout", "connection_error", "dns_error")  # worth another try at once
# Worth another try hours later: beside these, what servers say that are busy for now.
PASSING = (*TRANSIENT, *(f"http_{status}" for status in (408, 425, 429, 500, 502, 503, 504)))


class FetchError(Exception):
    """`cause`: no_url, bad_url, bad_scheme, private_address, dns_error (no such name, or a silent resolver),
    connection_error, tls_error, timeout, too_many_redirects, http_404 (any status), bad_response, too_big, empty,
    opted_out."""

    def __init__(self, cause: str):
        super().__init__(cause)
        self.cause = cause


@dataclass(frozen=True)
class Limits:
    timeout_s: float = 10.0
    max_bytes: int = 50_000_000
    allow_private_hosts: bool = False
    user_agent: str = "emage"


def fetch(url: str | None, limits: Limits, is_opted_out: Callable[[Message], bool]) -> bytes:
    """The bytes behind `url`. `is_opted_out` sees the response's headers, before its body is read."""
    if not url:
        raise FetchError("no_url")
    deadline = time.monotonic() + limits.timeout_s
    try:
        for _ in range(MAX_REDIRECTS + 1):
            with _Hop(url, limits, deadline) as hop:
                if hop.response.status not in REDIRECTS:
                    return _body(hop.response, limits, is_opted_out)
                url = urljoin(url, _location(hop.response))
        raise FetchError("too_many_redirects")
    except TimeoutError:
        cause = "timeout"
    except socket.gaierror:
        cause = "dns_error"
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):  # it hung up in the middle
        cause = "connection_error"
    except ssl.SSLError:
        cause = "tls_error"
    except OSError:
        cause = "connection_error"
    except http.client.IncompleteRead:
        cause = "connection_error"
    except ValueError:  # urlsplit, the port, IDNA
        cause = "bad_url"
    except FetchError:
        raise
    except Exception:  # a hostile answer can make the standard library raise anything
        cause = "bad_response"
    raise FetchError(cause)


def fetch_with_retries(url: str | None, limits: Limits, is_opted_out: Callable[[Message], bool], retries: int) -> bytes:
    """`fetch`, up to `retries` more times where the cause may pass by itself."""
    for tries_left in range(retries, -1, -1):
        try:
            return fetch(url, limits, is_opted_out)
        except FetchError as error:
            if error.cause not in TRANSIENT or not tries_left:
                raise
    raise AssertionError("unreachable")


class _Hop:
    """One request: a connection to a checked address and its response, closed together."""

    def __init__(self, url: str, limits: Limits, deadline: float):
        parts, host, port = _parts(url)
        is_tls = parts.scheme == "https"
        addresses = _resolve(host, port, deadline)
        if not limits.allow_private_hosts and not all(is_public(address[0]) for _, address in addresses):
            raise FetchError("private_address")
        self.socket = _connect(addresses, deadline)
        try:
            if is_tls:
                self.socket.settimeout(_left(deadline))
                self.socket = _tls().wrap_socket(self.socket, server_hostname=host)
                self.socket.deadline = deadline  # type: ignore[attr-defined]
                connection = http.client.HTTPSConnection(host, port, context=_tls())
            else:
                connection = http.client.HTTPConnection(host, port)
            connection.sock = self.socket  # it connects by itself only where it has none
            self.socket.settimeout(_left(deadline))
            # http.client adds Host, and Accept-Encoding: identity. Nothing of the URL's user:password@ is sent.
            headers = {"User-Agent": limits.user_agent, "Accept": "image/*,*/*;q=0.1"}
            connection.request("GET", _target(parts), headers=headers)
            self.response = connection.getresponse()
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> "_Hop":
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self.socket.close()


def _body(response: http.client.HTTPResponse, limits: Limits, is_opted_out: Callable[[Message], bool]) -> bytes:
    if response.status != 200:
        raise FetchError(f"http_{response.status}")
    if is_opted_out(response.headers):
        raise FetchError("opted_out")
    if (response.length or 0) > limits.max_bytes:
        raise FetchError("too_big")
    blocks: list[bytes] = []
    size = 0
    while block := response.read(BLOCK):
        blocks.append(block)
        size += len(block)
        if size > limits.max_bytes:
            raise FetchError("too_big")
    if response.length:  # the connection ended before the announced number of bytes
        raise FetchError("connection_error")
    if not size:
        raise FetchError("empty")
    return _unpacked(b"".join(blocks), response.headers.get("Content-Encoding", ""), limits.max_bytes)


def _unpacked(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """Undoes gzip or deflate, which some servers send unasked. Bytes that are no such thing stay what they are."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return data
    unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # with gzip's header or zlib's
    try:
        unpacked = unpacking.decompress(data, max_bytes + 1)  # a bomb ends here
    except zlib.error:
        return data
    if len(unpacked) > max_bytes:
        raise FetchError("too_big")
    if not unpacking.eof:
        raise FetchError("connection_error")  # its end is missing
    return unpacked


def _location(response: http.client.HTTPResponse) -> str:
    """Where a redirect leads. UTF-8 is not allowed there and is sent all the same; http.client reads Latin-1."""
    location = response.headers.get("Location", "").strip()
    if not location:
        raise FetchError("bad_response")
    try:
        return location.encode("latin-1").decode()
    except UnicodeError:
        return location


def host(url: str) -> str:
    """The host that `fetch` would ask, in ASCII. Raises ValueError or FetchError where it would ask none."""
    return _parts(url)[1]


def _parts(url: str) -> tuple[SplitResult, str, int]:
    """A URL taken apart, its host in ASCII, its port. Raises ValueError, or FetchError."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https"):
        raise FetchError("bad_scheme")
    host, port = parts.hostname or "", parts.port
    if not host.isascii():
        host = host[:254].encode("idna").decode()  # cut, because it is slow on long names
    if not HOST.fullmatch(host) or port == 0:
        raise FetchError("bad_url")
    return parts, host, port or (443 if parts.scheme == "https" else 80)


def _target(parts: SplitResult) -> str:
    query = f"?{quote(parts.query, safe=SAFE)}" if parts.query else ""
    return (quote(parts.path, safe=SAFE) or "/") + query


# --- Addresses -------------------------------------------------------------------------------------------------------


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the open internet, also where IPv6 wraps an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour
        if ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
        if ip.is_site_local or ip in LOCAL_NAT64:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _resolve(host: str, port: int, deadline: float) -> list[tuple[socket.AddressFamily, tuple]]:
    """Every address of a host, in the resolver's order. The resolver knows no deadline, so it waits in a thread."""
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    if _is_address(host):
        answers = look_up()
    else:
        seconds, waiting = _left(deadline), _resolver().submit(look_up)
        try:
            answers = waiting.result(seconds)
        except FutureTimeoutError:  # not TimeoutError itself before Python 3.11
            waiting.cancel()
            raise FetchError("dns_error") from None
    return [(family, address) for family, _, _, _, address in answers]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
        return True
    except ValueError:
        return False


@functools.cache
def _resolver() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=LOOK_UPS, thread_name_prefix="resolve")


# --- Sockets that keep a deadline ------------------------------------------------------------------------------------


def _left(deadline: float) -> float:
    """Seconds until the deadline. Raises TimeoutError where it is over."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


class _Socket(socket.socket):
    """Waits for data until the deadline and no longer, however the data dribble in."""

    deadline = math.inf

    def recv_into(self, *args, **kwargs) -> int:
        self.settimeout(_left(self.deadline))
        return super().recv_into(*args, **kwargs)


class _TLSSocket(ssl.SSLSocket):
    deadline = math.inf

    def recv_into(self, *args, **kwargs) -> int:
        self.settimeout(_left(self.deadline))
        return super().recv_into(*args, **kwargs)


def _connect(addresses: list[tuple[socket.AddressFamily, tuple]], deadline: float) -> socket.socket:
    """A connection to the first address that takes one. One that stays silent costs half of the time left, so that a
    host with a broken IPv6 route is still reached by IPv4."""
    error: OSError = ConnectionError("no address")
    for others, (family, address) in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
        connection = _Socket(family, socket.SOCK_STREAM)
        connection.deadline = deadline
        try:
            connection.settimeout(_left(deadline) / (2 if others else 1))
            connection.connect(address)
            return connection
        except OSError as refused:
            connection.close()
            error = refused
    raise error


@functools.cache
def _tls() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.sslsocket_class = _TLSSocket
    return context
