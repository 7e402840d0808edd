"""Conditions on metadata and block-lists, on columns whose answers can be read off."""

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from emage import filters
from emage.errors import InputError

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
    condition = filters.condition(text)
    assert condition.text == text
    assert condition.holds(pa.array(values)).to_pylist() == expected


@pytest.mark.parametrize("text", ["similarity", "similarity=0.3", ">=3", "similarity>=high", ""])
def test_what_is_no_condition(text):
    with pytest.raises(InputError, match=r"source\.where"):
        filters.condition(text)


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_block_lists(tmp_path):
    digest = hashlib.md5(b"a picture").hexdigest()
    (tmp_path / "more.txt.gz").write_bytes(gzip.compress(b"http://a.test/2.jpg\n"))
    lists = filters.block_lists(
        [write(tmp_path / "urls.txt", "# seen in 2023", "http://a.test/1.jpg", ""), str(tmp_path / "more.txt.gz")],
        [write(tmp_path / "hosts.txt", "example.com", "[2001:db8::1]")],
        [write(tmp_path / "md5.txt", digest.upper())],
    )
    sums = pa.array([None, digest, "", digest.upper(), "no sum", "0" * 32, digest[:-1]])
    blocked = {cause: np.flatnonzero(fails).tolist() for cause, fails in lists.blocks(URLS, sums)}
    assert blocked == {"blocked_url": [0, 6], "blocked_host": [1, 4], "blocked_md5": [1, 3]}


def test_without_lists_nothing_is_asked():
    assert list(filters.block_lists([], [], []).blocks(URLS, None)) == []


def test_lists_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"absent\.txt: not a readable list \(select\.block_hosts\)"):
        filters.block_lists([], [str(tmp_path / "absent.txt")], [])
    with pytest.raises(InputError, match=r"'http://a\.test' is no md5 sum"):
        filters.block_lists([], [], [write(tmp_path / "md5.txt", "http://a.test")])
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"example.com\n" * 1000)[:-9])
    with pytest.raises(InputError, match="not a readable list"):
        filters.block_lists([str(tmp_path / "cut.gz")], [], [])


def test_hashes_are_the_same_everywhere():
    """Runs, shards and uids rest on them: another value is another shuffle."""
    assert filters.hashes(pa.array(["http://a.test/1.jpg", "", None, "öäü"])).tolist() == [
        *(9029930180144773782, 1760245841805064774, 1760245841805064774, 6140590385611393161)
    ]
