"""What a hostile web can do to a fetch, on loopback: every trick ends under its own name, in time."""

import datetime
import gzip
import http.server
import ipaddress
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from pathlib import Path

import pytest
import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from emage.data.ingest import fetch
from emage.data.ingest.fetch import FetchError, Limits

LIMITS = Limits(timeout_s=0.5, max_bytes=100_000, allow_private_hosts=True)


@pytest.fixture
def pages() -> Iterator[tuple[dict[str, web.Page], str]]:
    pages: dict[str, web.Page] = {}
    with web.serving(pages) as address:
        yield pages, address


def nobody_opts_out(headers: Message) -> bool:
    return False


def cause(url: str | None, limits: Limits = LIMITS) -> str:
    with pytest.raises(FetchError) as error:
        fetch.fetch(url, limits, nobody_opts_out)
    return error.value.cause


def test_fetches_bytes_through_redirects_and_odd_paths(pages):
    pages, address = pages
    pages |= {
        "/a": web.redirect("/b"),
        "/b": web.redirect(address + "/%E2%98%83%20x?q=1"),
        "/%E2%98%83%20x?q=1": b"snow",
    }
    assert fetch.fetch(address + "/a", LIMITS, nobody_opts_out) == b"snow"
    assert fetch.fetch(address + "/☃ x?q=1", LIMITS, nobody_opts_out) == b"snow"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, "no_url"),
        ("", "no_url"),
        ("file:///etc/passwd", "bad_scheme"),
        ("data:image/png;base64,AAAA", "bad_scheme"),
        ("ftp://example.com/a.jpg", "bad_scheme"),
        ("example.com/a.jpg", "bad_scheme"),
        ("http:///a.jpg", "bad_url"),
        ("http://[::1/a.jpg", "bad_url"),
        ("http://127.0.0.1:99999/a.jpg", "bad_url"),
        ("http://127.0.0.1:0/a.jpg", "bad_url"),
        ("http://[fe80::1%25eth0]/a.jpg", "bad_url"),
        ("http://[fe80::1%eth0]/a.jpg", "bad_url"),
        ("http://%31%32%37.0.0.1/a.jpg", "bad_url"),
        ("http://a host/a.jpg", "bad_url"),
        ("http://two..dots/a.jpg", "bad_url"),
        (f"http://{'a' * 300}/a.jpg", "bad_url"),
        (f"http://{'ä' * 100_000}/a.jpg", "bad_url"),
        ("http://127.0.0.1:1/a.jpg", "connection_error"),
    ],
)
def test_bad_urls(url, expected):
    assert cause(url) == expected


@pytest.mark.parametrize(
    "address",
    [
        *(
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
        ),
        *("255.255.255.255", "::1", "fe80::1%eth0", "fd00::1", "fec0::1", "ff02::1"),
        *("::ffff:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::1", "2002:7f00:1::", "::7f00:1", "2001::1"),
    ],
)
def test_private_addresses(address):
    assert not fetch.is_public(address)


def test_public_addresses():
    assert all(map(fetch.is_public, ("8.8.8.8", "2606:4700:4700::1111", "64:ff9b::808:808", "::ffff:8.8.8.8")))


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "[::1]", "2130706433", "0x7f.1", "127.1", "[::ffff:127.0.0.1]"]
)
def test_loopback_is_refused_however_it_is_written(host):
    assert cause(f"http://{host}/a.jpg", Limits()) == "private_address"


def test_a_redirect_to_a_private_address_or_a_file_is_refused(pages, monkeypatch):
    pages, address = pages
    pages |= {"/private": web.redirect("http://127.0.0.2/secret"), "/file": web.redirect("file:///etc/passwd")}
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")  # the only "public" one
    assert cause(address + "/private", Limits()) == "private_address"
    assert cause(address + "/file", Limits()) == "bad_scheme"


def test_a_redirect_to_a_private_ipv6_address_is_refused(pages, monkeypatch):
    pages, address = pages
    pages |= {"/v6": web.redirect("http://[::1]/secret"), "/mapped": web.redirect("//[::ffff:127.0.0.2]/secret")}
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    assert cause(address + "/v6", Limits()) == cause(address + "/mapped", Limits()) == "private_address"


def test_one_private_address_among_public_ones_is_enough(monkeypatch):
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (ip, 80)) for ip in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    assert cause("http://mixed.test/a.jpg", Limits()) == "private_address"


def test_the_host_is_what_stands_behind_the_last_at_sign(pages):
    assert cause("http://example.com@127.0.0.1/a.jpg", Limits()) == "private_address"
    assert cause("http://127.0.0.1%2f@[::1]/a.jpg", Limits()) == "private_address"


def test_what_is_sent_names_us_and_gives_nothing_away(pages, monkeypatch):
    """No password of the URL, no cookie from the page before, no Referer; and proxies are not asked."""
    pages, address = pages
    sent = []
    pages["/a"] = lambda handler: (
        sent.append(dict(handler.headers)),
        web.answer(b"", 302, Location="/b", Set_Cookie="id=1")(handler),
    )[0]
    pages["/b"] = lambda handler: (sent.append(dict(handler.headers)), web.answer(b"picture")(handler))[0]
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    url = address.replace("http://", "http://user:secret@") + "/a"
    limits = Limits(allow_private_hosts=True, user_agent="Mozilla/5.0 (compatible; emage/1)")
    assert fetch.fetch(url, limits, nobody_opts_out) == b"picture"
    for headers in sent:
        assert headers.pop("Host") == address.removeprefix("http://")
        assert headers == {
            "Accept-Encoding": "identity",
            "User-Agent": "Mozilla/5.0 (compatible; emage/1)",
            "Accept": "image/*,*/*;q=0.1",
        }
    assert len(sent) == 2


def test_redirects_as_servers_write_them(pages):
    pages, address = pages
    pages |= {
        "/relative/a": web.redirect("b"),
        "/relative/b": web.redirect(address.removeprefix("http:") + "/top"),
        "/top": web.redirect("/\u00e2\u0098\u0083"),  # a snowman in UTF-8, as Latin-1 has it
        "/%E2%98%83": b"snow",
        "/nowhere": web.answer(b"", 302),
    }
    assert fetch.fetch(address + "/relative/a", LIMITS, nobody_opts_out) == b"snow"
    assert cause(address + "/nowhere") == "bad_response"


def test_packed_answers_are_unpacked_within_the_limit(pages):
    pages, address = pages
    image = bytes(range(256)) * 100
    packed = gzip.compress(image)
    pages |= {
        "/gzip": web.answer(packed, Content_Encoding="gzip"),
        "/deflate": web.answer(zlib.compress(image), Content_Encoding="deflate"),
        "/lie": web.answer(image, Content_Encoding="gzip"),
        "/odd": web.answer(image, Content_Encoding="utf-8"),
        "/bomb": web.answer(gzip.compress(bytes(10_000_000)), Content_Encoding="gzip"),
        "/cut": web.answer(packed[:-20], Content_Encoding="gzip"),
    }
    for path in ("/gzip", "/deflate", "/lie", "/odd"):
        assert fetch.fetch(address + path, LIMITS, nobody_opts_out) == image
    assert cause(address + "/bomb") == "too_big"
    assert cause(address + "/cut") == "connection_error"


def test_header_bombs_end_as_bad_responses(pages):
    pages, address = pages

    def many(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000 + b"\r\n")

    def long(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 10_000_000 + b"\r\n\r\n")

    def chunk(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 10_000_000)

    pages |= {"/many": many, "/long": long, "/chunk": chunk}
    assert [cause(address + path) for path in ("/many", "/long", "/chunk")] == ["bad_response"] * 3


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
            assert cause(f"https://{address}/a.jpg") == expected


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of 127.0.0.1, signed by itself, in one PEM file."""
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
    """`talk` behind a handshake, once the request is read."""
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
        assert cause(f"https://{quick}/a.jpg") == "tls_error"  # nobody has vouched for it yet
        trusting = fetch._tls.__wrapped__()
        trusting.load_verify_locations(certificate)
        monkeypatch.setattr(fetch, "_tls", lambda: trusting)
        assert fetch.fetch(f"https://{quick}/a.jpg", LIMITS, nobody_opts_out) == b"picture"
        assert cause(f"https://{slow}/a.jpg") == "timeout"


def test_a_silent_first_address_leaves_time_for_the_second(pages, monkeypatch):
    pages, address = pages
    pages["/a"] = b"picture"
    port = int(address.rsplit(":", 1)[1])
    with socket.socket() as full:  # its queue is full: it answers nobody, as a broken route does
        full.bind(("127.0.0.2", 0))
        full.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        hosts = [full.getsockname(), ("127.0.0.1", port)]
        answers = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", host) for host in hosts]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
        limits = Limits(timeout_s=2, allow_private_hosts=True)
        assert fetch.fetch("http://two.test/a", limits, nobody_opts_out) == b"picture"
        for client in waiting:
            client.close()


def test_the_connection_goes_to_the_address_that_was_checked(pages, monkeypatch):
    pages, address = pages
    pages["/a"] = b"public"
    asked = []

    def rebinding(host, port, **_):
        asked.append(host)
        ip = "127.0.0.1" if len(asked) == 1 else "127.0.0.2"  # a second answer would be another address
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (ip, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(fetch, "is_public", lambda address: address == "127.0.0.1")
    port = address.rsplit(":", 1)[1]
    assert fetch.fetch(f"http://rebinding.test:{port}/a", Limits(), nobody_opts_out) == b"public"
    assert asked == ["rebinding.test"]


@pytest.mark.parametrize("page", [web.dripping_body, web.dripping_headers])
def test_the_deadline_covers_the_whole_request(pages, page):
    pages, address = pages
    pages["/slow"] = page
    started = time.monotonic()
    assert cause(address + "/slow") == "timeout"
    assert time.monotonic() - started < 5


def test_a_silent_resolver_meets_the_deadline(monkeypatch):
    """And is counted as what it is: with broken DNS, the cause must not be a slow network."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(1.5))
    started = time.monotonic()
    assert cause("http://silent.test/a.jpg", Limits(timeout_s=0.2)) == "dns_error"
    assert time.monotonic() - started < 1.5


def test_a_look_up_that_nobody_waits_for_any_more_is_not_made(monkeypatch):
    """Else a resolver that is slow for a while would be kept busy by what has long been given up."""
    asked, answering = [], threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: asked.append(host) or answering.wait(30))
    with ThreadPoolExecutor(max_workers=1) as resolver:
        monkeypatch.setattr(fetch, "_resolver", lambda: resolver)
        assert cause("http://first.test/a.jpg", Limits(timeout_s=0.2)) == "dns_error"
        assert cause("http://second.test/a.jpg", Limits(timeout_s=0.2)) == "dns_error"  # behind the first
        answering.set()
    assert asked == ["first.test"]


def test_answers_that_are_no_image(pages):
    pages, address = pages
    pages |= {
        "/endless": web.endless,
        "/big": web.answer(b"x", Content_Length="100001"),
        "/short": web.answer(b"x", Content_Length="10"),
        "/nothing": b"",
        "/gone": web.answer(b"gone", 410),
        "/round": web.redirect("/round"),
        "/noise": lambda handler: handler.wfile.write(b"no HTTP at all\r\n\r\n"),
    }
    causes = {path: cause(address + path) for path in pages} | {"/404": cause(address + "/404")}
    assert causes == {
        "/endless": "too_big",
        "/big": "too_big",
        "/short": "connection_error",
        "/nothing": "empty",
        "/gone": "http_410",
        "/round": "too_many_redirects",
        "/noise": "bad_response",
        "/404": "http_404",
    }


def test_opting_out_is_heard_before_the_body(pages):
    pages, address = pages

    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Robots-Tag: noai\r\n\r\n")
        while True:
            handler.wfile.write(b"x" * 65536)

    pages["/mine"] = endless
    with pytest.raises(FetchError, match="opted_out"):
        fetch.fetch(address + "/mine", LIMITS, lambda headers: headers["X-Robots-Tag"] == "noai")


def test_retries_what_may_pass_by_itself_only(pages):
    pages, address = pages
    tries = []

    def flaky(handler: http.server.BaseHTTPRequestHandler) -> None:
        tries.append(handler.path)
        if len(tries) > 1:
            web.answer(b"at last")(handler)
        # the first time the connection just ends

    pages["/flaky"] = flaky
    assert fetch.fetch_with_retries(address + "/flaky", LIMITS, nobody_opts_out, retries=1) == b"at last"
    pages["/gone"] = lambda handler: (tries.append("gone"), web.answer(b"", 404)(handler))[0]
    with pytest.raises(FetchError, match="http_404"):
        fetch.fetch_with_retries(address + "/gone", LIMITS, nobody_opts_out, retries=3)
    assert tries.count("gone") == 1
