"""URLs as the download reads them: scheme, host in one spelling, port, path."""

import ipaddress
import re
import socket
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import idna

from emage.data.ingest.download.fetch_error import FetchError

DEFAULT_PORTS = {"http": 80, "https": 443}
FIRST_FREE_PORT = 1024  # below it are services of the system: mail, SSH, DNS, ...
# The others that browsers refuse (WHATWG Fetch, "bad ports", 2026-12-01): H.323, PPTP, NFS, lockd, SIP, X11, IRC, ...
BAD_PORTS = {1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697, 10080}
MAX_HOST_CHARACTERS = 253
HOST = re.compile(r"(?=.{1,254}\Z)([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
UNQUOTED = "/%:=&?~#+!$,;'@()*[]"  # stays as it is in a path; the rest is percent-encoded, as browsers do


class Url(NamedTuple):
    """What a request needs of a URL. A user and a password in it are not read, and so never sent."""

    is_tls: bool
    host: str  # ASCII, lower case; an IP address in its usual notation, without brackets
    port: int
    target: str  # path and query, percent-encoded


def parse(url: str) -> Url:
    """Return the parts of a URL. Raise FetchError (bad_scheme, bad_url or bad_port) if it is not one to ask."""
    try:
        parts = urlsplit(url.strip())
        if parts.scheme not in DEFAULT_PORTS:
            raise FetchError("bad_scheme")
        host, port = _host(parts.hostname or ""), parts.port
    except ValueError:  # of urlsplit, the port or IDNA
        raise FetchError("bad_url") from None
    if port is None:
        port = DEFAULT_PORTS[parts.scheme]
    if port == 0:
        raise FetchError("bad_url")
    if port not in DEFAULT_PORTS.values() and (port < FIRST_FREE_PORT or port in BAD_PORTS):
        raise FetchError("bad_port")
    query = f"?{quote(parts.query, safe=UNQUOTED)}" if parts.query else ""
    return Url(parts.scheme == "https", host, port, (quote(parts.path, safe=UNQUOTED) or "/") + query)


def host_of(url: str) -> str:
    """Return the host that the download asks, in one spelling whatever the URL's is. Raise FetchError as `parse`."""
    return parse(url).host


def _host(host: str) -> str:
    """Return a host in ASCII, an IP address in its usual notation. Raise ValueError if it is neither."""
    if ":" in host:
        address = ipaddress.IPv6Address(host)
        if address.scope_id is not None:
            raise ValueError(host)
        return str(address.ipv4_mapped or address)
    if len(host) > MAX_HOST_CHARACTERS + 1:
        raise ValueError("a long host")
    host = _ascii(host)
    if not HOST.fullmatch(host):
        raise ValueError(host)
    try:  # 2130706433, 0x7f.1 and the like, which the system's resolver takes for addresses
        return socket.inet_ntoa(socket.inet_aton(host.removesuffix(".")))
    except OSError:
        return host


def _ascii(host: str) -> str:
    """Return a host's name in ASCII as browsers do (UTS 46): ß and ZWJ stay characters of the name.

    `idna.encode` alone would refuse emoji, which IDNA 2008 does not allow and which are names all the same.
    """
    labels = idna.uts46_remap(host, std3_rules=False).split(".")
    return ".".join(label if label.isascii() else f"xn--{label.encode('punycode').decode()}" for label in labels)
