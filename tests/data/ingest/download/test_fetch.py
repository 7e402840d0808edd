"""Downloads from hostile servers, on loopback: each attempt ends in time with its own drop reason."""

import http.server
import socket
import time
from email.message import Message

import pytest
import web
from one_download import LIMITS, drop_reason, never_opted_out

from emage.data.ingest.download import fetch, robots_tag, safe_connection
from emage.data.ingest.download.fetch import FetchError, FetchLimits


def test_fetches_bytes_through_redirects_and_odd_paths(pages):
    pages, address = pages
    pages |= {
        "/a": web.redirect("/b"),
        "/b": web.redirect(address + "/%E2%98%83%20x?q=1"),
        "/%E2%98%83%20x?q=1": b"snow",
    }
    assert fetch.fetch(address + "/a", LIMITS, never_opted_out) == b"snow"
    assert fetch.fetch(address + "/☃ x?q=1", LIMITS, never_opted_out) == b"snow"


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
        ("http://127.0.0.1:1/a.jpg", "bad_port"),
    ],
)
def test_bad_urls(url, expected):
    assert drop_reason(url) == expected


def test_a_redirect_to_a_private_address_or_a_file_is_rejected(pages, monkeypatch):
    pages, address = pages
    pages |= {"/private": web.redirect("http://127.0.0.2/secret"), "/file": web.redirect("file:///etc/passwd")}
    monkeypatch.setattr(safe_connection, "is_public", lambda address: address == "127.0.0.1")  # the only "public" one
    assert drop_reason(address + "/private", FetchLimits()) == "private_address"
    assert drop_reason(address + "/file", FetchLimits()) == "bad_scheme"


def test_a_redirect_to_a_private_ipv6_address_is_rejected(pages, monkeypatch):
    pages, address = pages
    pages |= {"/v6": web.redirect("http://[::1]/secret"), "/mapped": web.redirect("//[::ffff:127.0.0.2]/secret")}
    monkeypatch.setattr(safe_connection, "is_public", lambda address: address == "127.0.0.1")
    assert (
        drop_reason(address + "/v6", FetchLimits())
        == drop_reason(address + "/mapped", FetchLimits())
        == "private_address"
    )


def test_the_host_is_the_part_behind_the_last_at_sign(pages):
    assert drop_reason("http://example.com@127.0.0.1/a.jpg", FetchLimits()) == "private_address"
    assert drop_reason("http://127.0.0.1%2f@[::1]/a.jpg", FetchLimits()) == "private_address"


def test_requests_name_the_program_and_send_no_secrets(pages, monkeypatch):
    """Neither the URL's password nor a cookie nor a Referer is sent, and proxies are not used."""
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
    limits = FetchLimits(allow_private_hosts=True, user_agent="Mozilla/5.0 (compatible; emage/1)")
    assert fetch.fetch(url, limits, never_opted_out) == b"picture"
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
    assert fetch.fetch(address + "/relative/a", LIMITS, never_opted_out) == b"snow"
    assert drop_reason(address + "/nowhere") == "bad_response"


def test_header_bombs_end_as_bad_responses(pages):
    pages, address = pages

    def many(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 100_000 + b"\r\n")

    def long(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: " + b"b" * 10_000_000 + b"\r\n\r\n")

    def chunk(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 10_000_000)

    pages |= {"/many": many, "/long": long, "/chunk": chunk}
    assert [drop_reason(address + path) for path in ("/many", "/long", "/chunk")] == ["bad_response"] * 3


@pytest.mark.parametrize("page", [web.dripping_body, web.dripping_headers])
def test_the_deadline_covers_the_whole_request(pages, page):
    pages, address = pages
    pages["/slow"] = page
    started = time.monotonic()
    assert drop_reason(address + "/slow") == "timeout"
    assert time.monotonic() - started < 5


def test_responses_that_are_not_an_image(pages):
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
    reasons = {path: drop_reason(address + path) for path in pages} | {"/404": drop_reason(address + "/404")}
    assert reasons == {
        "/endless": "too_big",
        "/big": "too_big",
        "/short": "connection_error",
        "/nothing": "empty",
        "/gone": "http_410",
        "/round": "too_many_redirects",
        "/noise": "bad_response",
        "/404": "http_404",
    }


def test_a_closed_port_is_a_connection_error():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # not listening
        assert drop_reason(f"http://127.0.0.1:{closed.getsockname()[1]}/a.jpg") == "connection_error"


def is_opted_out(headers: Message) -> bool:
    return robots_tag.is_opted_out(headers, "emage")


def test_an_opt_out_is_respected_before_the_body(pages):
    pages, address = pages

    def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Robots-Tag: max-snippet:-1, noai\r\n\r\n")
        while True:
            handler.wfile.write(b"x" * 65536)

    pages["/mine"] = endless
    with pytest.raises(FetchError, match="opted_out"):
        fetch.fetch(address + "/mine", LIMITS, is_opted_out)


def test_an_opt_out_of_a_redirect_counts_and_that_of_an_error_page_does_not(pages):
    pages, address = pages
    pages |= {
        "/moved": web.answer(b"", 301, Location="/image", X_Robots_Tag="noai"),
        "/image": b"image",
        "/gone": web.answer(b"gone", 404, X_Robots_Tag="noindex"),
    }
    for path, reason in {"/moved": "opted_out", "/gone": "http_404"}.items():
        with pytest.raises(FetchError, match=reason):
            fetch.fetch(address + path, LIMITS, is_opted_out)
    assert fetch.fetch(address + "/image", LIMITS, is_opted_out) == b"image"


def test_a_redirect_to_a_port_of_another_service_is_rejected(pages):
    pages, address = pages
    pages["/mail"] = web.redirect("http://127.0.0.1:25/")
    assert drop_reason(address + "/mail") == "bad_port"


def test_only_temporary_failures_are_retried(pages):
    pages, address = pages
    attempts = []

    def flaky(handler: http.server.BaseHTTPRequestHandler) -> None:
        attempts.append(handler.path)
        if len(attempts) > 1:
            web.answer(b"at last")(handler)
        # the first time the connection just ends

    pages["/flaky"] = flaky
    assert fetch.fetch_with_retries(address + "/flaky", LIMITS, never_opted_out, retries=1) == b"at last"
    pages["/gone"] = lambda handler: (attempts.append("gone"), web.answer(b"", 404)(handler))[0]
    with pytest.raises(FetchError, match="http_404"):
        fetch.fetch_with_retries(address + "/gone", LIMITS, never_opted_out, retries=3)
    assert attempts.count("gone") == 1
