"""Short forms of a command line: what a word without `=` means, and what a command without settings does."""

import pytest

from emage.short_commands import complete
from emage.utils.errors import InputError

PRESETS = ("demo", "tiny", "laion400m")
INGEST = ("source.table", ("output=o",))
TRAIN = ("", ("data.path=t", "run.output=r"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("photos", "demo source.table=photos output=o"),
        ("tiny photos", "tiny source.table=photos output=o"),
        ("photos tiny", "tiny source.table=photos output=o"),
        ("./demo", "demo source.table=./demo output=o"),
        ("s3://b/shards/{0..9}.tar", "demo source.table=s3://b/shards/{0..9}.tar output=o"),
        ("photos output=x", "source.table=photos output=x"),  # no preset: with settings, the defaults are as ever
        ("tiny photos output=x", "tiny source.table=photos output=x"),
        ("demo", "demo"),  # a preset, though a folder has this name
        ("absent", "absent"),  # for the message on an unknown preset
        ("tinny source.table=x output=y", "tinny source.table=x output=y"),
        ("source.table=x output=y", "source.table=x output=y"),
        ("", ""),
    ],
)
def test_ingest(words, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "demo"):
        (tmp_path / name).mkdir()
    assert complete(words.split(), PRESETS, *INGEST) == expected.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("", "demo data.path=t run.output=r"),
        ("tiny", "tiny data.path=t run.output=r"),
        ("data.path=x", "data.path=x"),
        ("dmo", "dmo"),
    ],
)
def test_train(words, expected):
    assert complete(words.split(), PRESETS, *TRAIN) == expected.split()


def test_a_pattern_that_the_shell_has_expanded():
    with pytest.raises(InputError, match=r"2 paths \(a/0\.tar, a/1\.tar, \.\.\.\), .*quotes"):
        complete(["a/0.tar", "a/1.tar"], PRESETS, *INGEST)
