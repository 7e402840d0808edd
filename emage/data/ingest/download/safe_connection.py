"""Sockets that connect to public addresses only and respect one deadline, however slow the resolver or server is.

1. A host is resolved once. Every address that it has must be public (this prevents server-side request forgery),
   and the connection goes to an address that was checked: a name that resolves differently the second time (DNS
   rebinding) is not resolved a second time.
2. A deadline is a time of time.monotonic(). Resolving, connecting, the TLS handshake and every read wait until the
   deadline and no longer.
"""

import functools
import ipaddress
import math
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

from emage.data.ingest.download.public_addresses import is_public

MAX_LOOKUPS = 256  # names resolved at once: slow ones must not hold up the others

Address = tuple[socket.AddressFamily, tuple]


class PrivateAddressError(Exception):
    """A host has an address that is not public."""


def connect(host: str, port: int, deadline: float, *, is_tls: bool, allow_private_hosts: bool) -> socket.socket:
    """Return a connected socket, after a TLS handshake if `is_tls`. Its reads respect the deadline as well.

    Raises:
        PrivateAddressError: One of the host's addresses is not public, and `allow_private_hosts` is False.
        socket.gaierror: The host has no address, or the resolver did not answer by the deadline.
        TimeoutError: The deadline is over.
        OSError: No address accepts a connection, or (ssl.SSLError) the handshake failed.
    """
    addresses = _resolve(host, port, deadline)
    if not allow_private_hosts and not all(is_public(address[0]) for _, address in addresses):
        raise PrivateAddressError(host)
    plain = _connect_to_first(addresses, deadline)
    if not is_tls:
        return plain
    try:
        plain.settimeout(seconds_left(deadline))
        encrypted = tls_context().wrap_socket(plain, server_hostname=host.rstrip("."))
    except BaseException:
        plain.close()
        raise
    encrypted.deadline = deadline  # type: ignore[attr-defined]
    return encrypted


def seconds_left(deadline: float) -> float:
    """Return the seconds until the deadline. Raise TimeoutError if it is over."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


@functools.cache
def tls_context() -> ssl.SSLContext:
    """Return a context with the system's trusted certificates, whose sockets respect a deadline."""
    context = ssl.create_default_context()
    context.sslsocket_class = _TlsSocket
    return context


# Resolving names


def _resolve(host: str, port: int, deadline: float) -> list[Address]:
    """Return every address of a host, in the resolver's order.

    The system's resolver accepts no deadline, so the lookup runs in a thread: it is abandoned after the deadline.
    """
    look_up = functools.partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    if _is_address(host):
        answers = look_up()
    else:
        seconds, waiting = seconds_left(deadline), _resolver().submit(look_up)
        try:
            answers = waiting.result(seconds)
        except TimeoutError:
            waiting.cancel()
            raise socket.gaierror(socket.EAI_AGAIN, "no answer by the deadline") from None
    return [(family, address) for family, _, _, _, address in answers]


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
        return True
    except ValueError:
        return False


@functools.cache
def _resolver() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=MAX_LOOKUPS, thread_name_prefix="resolve")


# Sockets that respect a deadline


class _Socket(socket.socket):
    """A socket whose reads wait until the deadline and no longer, however slowly the data come."""

    deadline = math.inf

    def recv_into(self, *args, **kwargs) -> int:
        self.settimeout(seconds_left(self.deadline))
        return super().recv_into(*args, **kwargs)


class _TlsSocket(ssl.SSLSocket):
    """A TLS socket whose reads wait until the deadline and no longer, however slowly the data come."""

    deadline = math.inf

    def recv_into(self, *args, **kwargs) -> int:
        self.settimeout(seconds_left(self.deadline))
        return super().recv_into(*args, **kwargs)


def _connect_to_first(addresses: list[Address], deadline: float) -> socket.socket:
    """Return a connection to the first address that accepts one.

    An address that stays silent costs half of the remaining time, so that a host with a broken IPv6 route is still
    reached over IPv4.
    """
    error: OSError = ConnectionError("no address")
    for num_others, (family, address) in zip(range(len(addresses) - 1, -1, -1), addresses, strict=True):
        connection = _Socket(family, socket.SOCK_STREAM)
        connection.deadline = deadline
        try:
            connection.settimeout(seconds_left(deadline) / (2 if num_others else 1))
            connection.connect(address)
            return connection
        except OSError as failure:
            connection.close()
            error = failure
    raise error
