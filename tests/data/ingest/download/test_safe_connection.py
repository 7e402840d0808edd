"""Private addresses in every notation, silent resolvers, slow TLS: no connection, or an end at the deadline."""

import datetime
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from one_download import LIMITS, drop_reason, never_opted_out

from emage.data.ingest.download import fetch, safe_connection
from emage.data.ingest.download.fetch import FetchLimits


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"]
)
def test_loopback_is_rejected_in_every_spelling(host):
    assert drop_reason(f"http://{host}/a.jpg", FetchLimits()) == "private_address"


def test_one_private_address_among_public_ones_is_enough(monkeypatch):
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    assert drop_reason("http://mixed.test/a.jpg", FetchLimits()) == "private_address"


def test_a_slow_tls_handshake_meets_the_deadline():
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"\x16\x03\x03\x40\x00")  # a handshake of 16 KB follows, a byte at a time
        while True:
            connection.sendall(b"\x02")
            time.sleep(0.05)

    for talk, expected in [
        (drip, "timeout"),
        (lambda connection: connection.recv(1 << 16) and time.sleep(3), "timeout"),
        (lambda connection: connection.sendall(b"HTTP/1.1 400 no TLS here\r\n\r\n"), "tls_error"),
        (lambda connection: connection.recv(1 << 16), "connection_error"),  # hangs up
    ]:
        with web.listening(talk) as address:
            assert drop_reason(f"https://{address}/a.jpg") == expected


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a PEM file with a key and a self-signed certificate of 127.0.0.1."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now - day, now + day)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(key.private_bytes(pem, private, serialization.NoEncryption()) + signed.public_bytes(pem))
    return file


def over_tls(certificate: Path, talk: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    """Return a server that calls `talk` after the handshake, when it has read the request."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as encrypted:
            encrypted.recv(1 << 16)
            talk(encrypted)

    return serve


def test_the_deadline_covers_the_body_over_tls(certificate, monkeypatch):
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        for _ in range(40):  # two seconds, so that a fetch without a deadline ends as well, with a body
            connection.sendall(b"x")
            time.sleep(0.05)

    def honest(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\npicture")

    with web.listening(over_tls(certificate, honest)) as quick, web.listening(over_tls(certificate, drip)) as slow:
        assert drop_reason(f"https://{quick}/a.jpg") == "tls_error"  # not trusted yet
        trusting = safe_connection.tls_context.__wrapped__()
        trusting.load_verify_locations(certificate)
        monkeypatch.setattr(safe_connection, "tls_context", lambda: trusting)
        assert fetch.fetch(f"https://{quick}/a.jpg", LIMITS, never_opted_out) == b"picture"
        assert drop_reason(f"https://{slow}/a.jpg") == "timeout"


def test_a_silent_first_address_leaves_time_for_the_second(pages, monkeypatch):
    pages, address = pages
    pages["/a"] = b"picture"
    port = int(address.rsplit(":", 1)[1])
    with socket.socket() as full:  # its queue is full: it never answers, like a broken route
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        hosts = [full.getsockname(), ("127.0.0.1", port)]
        answers = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", host) for host in hosts]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
        limits = FetchLimits(timeout_s=2, allow_private_hosts=True)
        assert fetch.fetch("http://two.test/a", limits, never_opted_out) == b"picture"
        for client in waiting:
            client.close()


def test_the_connection_goes_to_the_address_that_was_checked(pages, monkeypatch):
    pages, address = pages
    pages["/a"] = b"public"
    looked_up = []

    def rebinding(host, port, **_):
        looked_up.append(host)
        ip = "127.0.0.1" if len(looked_up) == 1 else "127.0.0.2"  # a second answer would be another address
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (ip, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(safe_connection, "is_public", lambda address: address == "127.0.0.1")
    port = address.rsplit(":", 1)[1]
    assert fetch.fetch(f"http://rebinding.test:{port}/a", FetchLimits(), never_opted_out) == b"public"
    assert looked_up == ["rebinding.test"]


def test_a_silent_resolver_meets_the_deadline(monkeypatch):
    """It is counted as a DNS error: broken DNS must not look like a slow network."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(1.5))
    started = time.monotonic()
    assert drop_reason("http://silent.test/a.jpg", FetchLimits(timeout_s=0.2)) == "dns_error"
    assert time.monotonic() - started < 1.5


def test_an_abandoned_lookup_is_not_made(monkeypatch):
    """Otherwise a resolver that was slow for a while would stay busy with abandoned lookups."""
    looked_up, answering = [], threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: looked_up.append(host) or answering.wait(30))
    with ThreadPoolExecutor(max_workers=1) as resolver:
        monkeypatch.setattr(safe_connection, "_resolver", lambda: resolver)
        assert drop_reason("http://first.test/a.jpg", FetchLimits(timeout_s=0.2)) == "dns_error"
        assert drop_reason("http://second.test/a.jpg", FetchLimits(timeout_s=0.2)) == "dns_error"  # behind the first
        answering.set()
    assert looked_up == ["first.test"]
