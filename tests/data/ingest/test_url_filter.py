"""Conditions on metadata and block lists, on columns that are small enough to check by eye."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from emage.data.ingest import url_filter
from emage.data.ingest.download.url import host_of
from emage.utils.errors import InputError

URLS = pa.array(
    [
        "http://a.test/1.jpg",
        "https://user:word@img.Example.com:8080/x?u=http://b.test/",
        None,
        "http://notexample.com/1.jpg",
        "http://[2001:db8::1]/1.jpg",
        "no address",
        " http://a.test/2.jpg ",
    ]
)


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("similarity>=0.3", [0.3, 0.29, None, float("nan")], [True, False, False, False]),
        ("similarity>=0.3", ["0.3", " 1e-1", "", "n/a"], [True, False, False, False]),
        ("WIDTH > 256", [256, 257, None, 1 << 40], [False, True, False, True]),
        ("NSFW==UNLIKELY", ["UNLIKELY", "NSFW", None, "unlikely"], [True, False, False, False]),
        ("NSFW!=NSFW", ["UNLIKELY", "NSFW", None, "UNSURE"], [True, False, False, True]),
        ("has_watermark==false", [True, False, None, False], [False, True, False, True]),
        ("pwatermark<.8", ["0.79", "0.8", "8", "-1"], [True, False, False, True]),
    ],
)
def test_conditions(text, values, expected):
    condition = url_filter.parse_condition(text)
    assert condition.text == text
    assert condition.holds(pa.array(values)).to_pylist() == expected


@pytest.mark.parametrize("text", ["similarity", "similarity=0.3", ">=3", "similarity>=high", ""])
def test_texts_that_are_not_a_condition(text):
    with pytest.raises(InputError, match=r"source\.where"):
        url_filter.parse_condition(text)


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_block_lists(tmp_path):
    digest = hashlib.md5(b"an image").hexdigest()
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress(b"http://a.test/2.jpg\n"))
    lists = url_filter.read_block_lists(
        [write(tmp_path / "urls.txt", "# seen in 2023", "http://a.test/1.jpg", ""), str(tmp_path / "more.txt.gz")],
        [write(tmp_path / "hosts.txt", "example.com", "[2001:db8::1]")],
        [write(tmp_path / "md5.txt", digest.upper())],
    )
    sums = pa.array([None, digest, "", digest.upper(), "no sum", "0" * 32, digest[:-1]])
    blocked = {reason: np.flatnonzero(fails).tolist() for reason, fails in lists.match(URLS, sums)}
    assert blocked == {"blocked_url": [0, 6], "blocked_host": [1, 4], "blocked_md5": [1, 3]}


def blocked_by(path: Path, entries: list[str], urls: list[str | None]) -> list[bool]:
    lists = url_filter.read_block_lists([], [write(path / "hosts.txt", *entries)], [])
    ((reason, fails),) = lists.match(pa.array(urls, pa.string()), None)
    assert reason == "blocked_host"
    return fails.tolist()


EVIL = [
    "http://ev\til.com/1.jpg",
    "h\nttp:/\r/evil.com",
    "\x01http://evil.com",
    "\u2003http://EVIL.com./1.jpg",
    "http://\uff45vil.com/\uff41",  # a full-width e
    "http://evil\u3002com?a",  # a full-width dot
    "http://ev\u00adil.com",  # a soft hyphen
    "https://good.com:x@www.evil.com:8080#good.com",
    "http://evil.com\n/1.jpg",
]


def test_no_spelling_of_a_host_evades_a_list(tmp_path):
    for url in EVIL:  # the fetch connects to that host, or to a subdomain
        assert host_of(url).rstrip(".").endswith("evil.com"), url
    assert blocked_by(tmp_path, ["evil.com"], EVIL) == [True] * len(EVIL)
    others = [
        "http://good.com/evil.com",
        "http://evil.com@good.com",
        "http://good.com?http://evil.com",
        "http://",
        None,
    ]
    others += [
        "http://evil.com.good.com",
        "http://bad-evil.com",
        "http://evil.com:port",
        "ftp://evil.com",
        "//evil.com",
        "http://evil.com:25/",  # no port of the web
    ]
    assert blocked_by(tmp_path, ["evil.com"], others) == [False] * len(others)  # none of them is fetched from there


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("b\u00fccher.de", "http://xn--bcher-kva.de/1.jpg"),
        ("xn--bcher-kva.de", "http://B\u00dcCHER.de/1.jpg"),
        ("Wild.NET", "http://a.b.wild.net"),
        ("*.wild.net", "http://wild.net"),
        (".wild.net", "http://a.wild.net"),
        ("wild.net.", "http://wild.net"),
        ("wild.net", "http://wild.net./"),
        ("\ufeffwild.net", "http://wild.net"),  # a byte order mark
        ("stra\u00dfe.de", "http://xn--strae-oqa.de/"),
        ("xn--strae-oqa.de", "http://STRA\u1e9eE.de/"),  # a capital sharp s
        ("\U0001f408.la", "http://www.\U0001f408.la/"),
        ("192.0.2.1", "http://192.0.2.1:80/"),
        ("192.0.2.1", "http://0xc0000201/"),
        ("192.0.2.1", "http://192.513/"),
        ("192.0.2.1", "http://[::ffff:c000:201]/"),
        ("::ffff:192.0.2.1", "http://3221225985./"),
        ("2001:db8::1", "http://[2001:0DB8:0::1]/"),
        ("[2001:db8:0::1]", "http://[2001:db8::1]:80/"),
    ],
)
def test_entries_of_a_host_list_and_what_they_block(tmp_path, entry, url):
    assert blocked_by(tmp_path, [entry], [url, "http://other.net"]) == [True, False]


@pytest.mark.parametrize(
    "entry",
    [
        *("https://bad.org/", "https://bad.org", "host:8080", "bad.org/x", "user@bad.org", "*", "*bad.org", "."),
        *("bad.org # seen in 2023", "0.0.0.0 bad.org", "bad.org,worse.org", "x" * 300),
    ],
)
def test_entries_that_are_not_a_host(tmp_path, entry):
    with pytest.raises(InputError, match=r"^select\.block_hosts: '.*' is not a host; write it like") as error:
        blocked_by(tmp_path, ["good.com", entry], [])
    assert entry[:80] in str(error.value) and "\n" not in str(error.value)


def test_comments_and_empty_lines_are_skipped(tmp_path):
    """As entries, the first would be rejected as a host, the second as an md5 sum."""
    assert blocked_by(tmp_path, ["# my list", "  # of hosts", "", "  ", "evil.com"], ["http://evil.com"]) == [True]
    urls, sums = write(tmp_path / "u", "# a", "http://a.test/"), write(tmp_path / "m", "# b")
    lists = url_filter.read_block_lists([urls], [], [sums])
    assert len(lists.urls) == 1 and len(lists.md5) == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["", " ", None], False),
        ([None, None], False),
        ([], False),
        (["", "n/a"], True),
        (["n/a", "0.3"], False),
        ([None, 0.3], False),
        ([True, None], False),
    ],
)
def test_columns_that_lack_numbers(values, expected):
    assert url_filter.lacks_numbers(pa.array(values)) is expected


def test_without_lists_nothing_is_checked():
    assert list(url_filter.read_block_lists([], [], []).match(URLS, None)) == []


def test_lists_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"absent\.txt: not a readable list \(select\.block_hosts\)"):
        url_filter.read_block_lists([], [str(tmp_path / "absent.txt")], [])
    with pytest.raises(InputError, match=r"'http://a\.test' is not an md5 sum"):
        url_filter.read_block_lists([], [], [write(tmp_path / "md5.txt", "http://a.test")])
    (tmp_path / "truncated.gz").write_bytes(gzip.compress(b"example.com\n" * 1000)[:-9])
    with pytest.raises(InputError, match="not a readable list"):
        url_filter.read_block_lists([str(tmp_path / "truncated.gz")], [], [])


def test_hashes_are_the_same_everywhere():
    """Sorted runs, shards and uids depend on them: another value is another shuffle."""
    assert url_filter.hash_texts(pa.array(["http://a.test/1.jpg", "", None, "öäü"])).tolist() == [
        *(9029930180144773782, 1760245841805064774, 1760245841805064774, 6140590385611393161)
    ]
