"""The download of one URL.

    1. The scheme must be http or https, the port one of the web (url.py).
    2. Only public addresses are connected to (safe_connection.py).
    3. One deadline covers everything: resolving, connecting, TLS, headers, body, redirects.
    4. At most `max_bytes` are read, and unpacking ends at `max_bytes` as well (response.py).
    5. An opt-out in the headers ends the download before the body is read, at a redirect too.
    6. A redirect starts again at 1. No cookies or passwords are sent.

Proxies named in the environment are not used: they would connect to addresses that were not checked here.
Every failure is a FetchError; its `reason` is the drop reason under which the row is counted.
"""

import contextlib
import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.message import Message
from urllib.parse import urljoin

from urllib3.exceptions import HTTPError, InvalidChunkLength, ProtocolError

from emage.data.ingest.download import response, safe_connection, statuses
from emage.data.ingest.download import url as urls
from emage.data.ingest.download.fetch_error import FetchError
from emage.data.ingest.download.memory_budget import MemoryBudget, Share

MAX_REDIRECTS = 5

IsOptedOut = Callable[[Message], bool]  # of a response's headers


@dataclass(frozen=True)
class FetchLimits:
    """The limits of a download: its time, its bytes and its hosts."""

    timeout_s: float = 10.0  # for the whole download, redirects included
    max_bytes: int = 50_000_000
    allow_private_hosts: bool = False
    user_agent: str = "emage"


def fetch(url: str | None, limits: FetchLimits, is_opted_out: IsOptedOut, memory: Share | None = None) -> bytes:
    """Return the bytes at a URL.

    Args:
        url: http or https; missing or empty is the drop reason no_url.
        limits: Time, size and hosts.
        is_opted_out: Called with each response's headers before its body is read; True ends the download.
        memory: Where a large body takes the memory that it needs; what it keeps must be given back by the caller.
            At least 2 * `max_bytes` must be in the budget.

    Raises:
        FetchError: With a drop reason, whatever the server did. Then nothing stays taken from `memory`.
    """
    if not url:
        raise FetchError("no_url")
    memory = memory or Share(MemoryBudget(2 * limits.max_bytes))
    deadline = time.monotonic() + limits.timeout_s
    try:
        for _ in range(MAX_REDIRECTS + 1):
            with _Request(urls.parse(url), limits, deadline) as request:
                answer = request.response
                is_redirect = answer.status in statuses.REDIRECTS
                total = None if is_redirect else statuses.length_of_whole(answer.status, answer.headers)
                if is_opted_out(answer.headers):  # behind the status: the page of a 404 often has a "noindex"
                    raise FetchError("opted_out")
                if not is_redirect:
                    return response.read_body(answer, total, limits.max_bytes, deadline, memory)
                url = _redirect(url, answer)
        raise FetchError("too_many_redirects")
    except FetchError:
        memory.keep(0)
        raise
    except Exception as error:  # a hostile response can make the libraries raise anything
        memory.keep(0)
        raise FetchError(_reason(error)) from None


def fetch_with_retries(
    url: str | None, limits: FetchLimits, is_opted_out: IsOptedOut, retries: int, memory: Share | None = None
) -> bytes:
    """Call `fetch`, and up to `retries` times again if the failure is in statuses.RETRIED_AT_ONCE."""
    for retries_left in range(retries, -1, -1):
        try:
            return fetch(url, limits, is_opted_out, memory)
        except FetchError as error:
            if error.reason not in statuses.RETRIED_AT_ONCE or not retries_left:
                raise
    raise AssertionError("unreachable")


def _reason(error: BaseException) -> str:
    """Return the drop reason of an error of the libraries. The order matters: most are subclasses of OSError."""
    if isinstance(error, HTTPError) and error.__cause__ is not None:  # urllib3's, around another one
        return _reason(error.__cause__)
    if isinstance(error, safe_connection.PrivateAddressError):
        return "private_address"
    if isinstance(error, TimeoutError):
        return "timeout"
    if isinstance(error, socket.gaierror):
        return "dns_error"
    if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "tls_error"
    if isinstance(error, InvalidChunkLength):
        return "bad_response"
    if isinstance(error, (OSError, http.client.IncompleteRead)):  # the two SSL errors as well: a broken connection
        return "connection_error"
    if isinstance(error, ProtocolError) and "ended prematurely" in str(error):  # between two chunks
        return "connection_error"
    return "bad_response"


class _Request:
    """One GET request: the connection and its response, closed together."""

    def __init__(self, url: urls.Url, limits: FetchLimits, deadline: float):
        private = limits.allow_private_hosts
        self.socket = safe_connection.connect(
            url.host, url.port, deadline, is_tls=url.is_tls, allow_private_hosts=private
        )
        try:
            kind = http.client.HTTPSConnection if url.is_tls else http.client.HTTPConnection
            connection = kind(url.host.rstrip("."), url.port)
            connection.response_class = response.FinalResponse
            connection.sock = self.socket  # with a socket, it does not connect by itself
            self.socket.settimeout(safe_connection.seconds_left(deadline))
            # http.client adds Host, and Accept-Encoding: identity.
            headers = {"User-Agent": limits.user_agent, "Accept": "image/*,*/*;q=0.1"}
            connection.request("GET", url.target, headers=headers)
            self.response = connection.getresponse()
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> "_Request":
        return self

    def __exit__(self, *_: object) -> None:
        self.response.close()
        self.socket.close()


def _redirect(url: str, answer: http.client.HTTPResponse) -> str:
    """Return a redirect's URL. Some servers send UTF-8, which is not allowed there; http.client reads Latin-1."""
    location = answer.headers.get("Location", "").strip()
    if not location:
        raise FetchError("bad_response")
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode()
    try:
        return urljoin(url, location)
    except ValueError:
        raise FetchError("bad_url") from None
