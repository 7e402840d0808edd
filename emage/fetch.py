"""One URL -> its bytes, from servers that are slow, hostile or both. Standard library only; no pictures here.

    1. The scheme must be http or https.
    2. The host is resolved, every address it has must be public, and the connection goes to the address that was
       checked: a name that answers differently a second time (DNS rebinding) is never asked a second time.
    3. One deadline covers everything: names, connecting, TLS, headers, body, redirects.
    4. At most `max_bytes` are read.
    5. A redirect starts again at 1.

Whatever goes wrong has a short name, `FetchError.cause`, by which it is counted.
"""

import functools
import http.client
import ipaddress
import math
import socket
import ssl
import time
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
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # carries an IPv4 address in its last 32 bits
TRANSIENT = ("timeout", "connection_error", "dns_error")  # worth another try at once


class FetchError(Exception):
    """`cause`: no_url, bad_url, bad_scheme, private_address, dns_error, connection_error, tls_error, timeout,
    too_many_redirects, http_404 (any status), bad_response, too_big, empty, opted_out."""

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
                url = urljoin(url, hop.response.headers.get("Location", ""))
        raise FetchError("too_many_redirects")
    except TimeoutError:
        cause = "timeout"
    except socket.gaierror:
        cause = "dns_error"
    except ssl.SSLError:
        cause = "tls_error"
    except OSError:
        cause = "connection_error"
    except http.client.IncompleteRead:
        cause = "connection_error"
    except http.client.HTTPException:
        cause = "bad_response"
    except ValueError:  # urlsplit, the port, IDNA
        cause = "bad_url"
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
        parts = urlsplit(url.strip())
        if parts.scheme not in ("http", "https"):
            raise FetchError("bad_scheme")
        if not parts.hostname:
            raise FetchError("bad_url")
        host = parts.hostname.encode("idna").decode() if not parts.hostname.isascii() else parts.hostname
        is_tls = parts.scheme == "https"
        port = parts.port or (443 if is_tls else 80)
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
            connection.request("GET", _target(parts), headers={"User-Agent": limits.user_agent, "Accept": "image/*"})
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
    return b"".join(blocks)


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
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _resolve(host: str, port: int, deadline: float) -> list[tuple[socket.AddressFamily, tuple]]:
    """Every address of a host, in the resolver's order. The resolver knows no deadline, so it waits in a thread."""
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    if _is_address(host):
        answers = look_up()
    else:
        try:
            answers = _resolver().submit(look_up).result(_left(deadline))
        except FutureTimeoutError:  # not TimeoutError itself before Python 3.11
            raise TimeoutError from None
    return [(family, address) for family, _, _, _, address in answers]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
        return True
    except ValueError:
        return False


@functools.cache
def _resolver() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=64, thread_name_prefix="resolve")


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
    """A connection to the first address that takes one."""
    error: OSError = ConnectionError("no address")
    for family, address in addresses:
        connection = _Socket(family, socket.SOCK_STREAM)
        connection.deadline = deadline
        try:
            connection.settimeout(_left(deadline))
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
