"""URLs: which site is asked for an international name, ports, one spelling of each host."""

import pytest

from emage.data.ingest.download import url
from emage.data.ingest.download.fetch_error import FetchError


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("straße.de", "xn--strae-oqa.de"),  # in the standard of 2003 strasse.de, which is another site
        ("βόλος.com", "xn--nxasmm1c.com"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("bu\u0308cher.example", "xn--bcher-kva.example"),  # u and a combining diaeresis
        ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
        ("\u0dc1\u0dca\u200d\u0dbb\u0dd3.com", "xn--10cl1a0b660p.com"),  # a joiner between letters
        ("💩.la", "xn--ls8h.la"),
        ("🐈.straße.de", "xn--zn8h.xn--strae-oqa.de"),
        ("a_b.例え.jp", "a_b.xn--r8jz45g.jp"),
        ("xn--strae-oqa.de", "xn--strae-oqa.de"),
        ("Example.COM.", "example.com."),
        ("ＥＸＡＭＰＬＥ．com", "example.com"),
        ("①②⑦.⓪.⓪.①", "127.0.0.1"),
        ("0x7f.1", "127.0.0.1"),
        ("2130706433.", "127.0.0.1"),
        ("[::FFFF:127.0.0.1]", "127.0.0.1"),
        ("[2001:DB8:0:0::1]", "2001:db8::1"),
    ],
)
def test_hosts(host, expected):
    assert url.host_of(f"http://{host}/a.jpg") == expected


@pytest.mark.parametrize(
    "host",
    ["", "a..b", ".a", "a b", "a／b", "ä\u2028b", "a%62", "-" * 64, "ä" * 60, "\u00ad.de", "[fe80::1%25lo]", "[::1"],
)
def test_hosts_that_are_not_asked(host):
    with pytest.raises(FetchError, match="bad_url"):
        url.parse(f"http://{host}/a.jpg")


@pytest.mark.parametrize("port", [80, 443, 1024, 8080, 8443, 65535])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_ports_of_the_web(scheme, port):
    assert url.parse(f"{scheme}://example.com:{port}/").port == port


@pytest.mark.parametrize("port", [1, 22, 25, 53, 110, 445, 993, 1023, 1720, 2049, 5060, 6000, 6667, 6697, 10080])
def test_ports_of_other_services(port):
    with pytest.raises(FetchError, match="bad_port"):
        url.parse(f"http://example.com:{port}/")


def test_what_is_asked_for():
    assert url.parse(" https://user:secret@example.com/a b/ä?q=ö&r=%20#part") == (
        *(True, "example.com", 443, "/a%20b/%C3%A4?q=%C3%B6&r=%20"),
    )
    assert url.parse("http://example.com:/") == url.parse("http://example.com") == (False, "example.com", 80, "/")
