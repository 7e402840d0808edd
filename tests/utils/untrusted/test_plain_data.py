"""JSON and YAML of strangers: plain values of bounded size, with the keys and types that are known."""

import json
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from emage.utils.untrusted.plain_data import (
    Each,
    parse_json,
    parse_yaml,
    read_json,
    read_text,
    refuse_references,
    select,
)


def test_yaml_gives_plain_values() -> None:
    text = "a: [1, 2.5, true, null, x]\nb: {c: 1.0e-05, d: 'yes: no'}\ndate: 2026-01-01\nempty:\n"
    values = {"a": [1, 2.5, True, None, "x"], "b": {"c": 1e-5, "d": "yes: no"}, "date": "2026-01-01", "empty": None}
    assert parse_yaml(text) == values
    assert parse_json(json.dumps(values)) == values


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &x [1]\nb: *x", "aliases"),
        ("&x a: *x", "aliases"),
        ("a: 1\na: 2", "the key 'a' is there twice"),
        ("'': 1\n'': 2", "the key '' is there twice"),
        ("a: !!python/object/apply:os.getcwd []", "constructor"),
        ("a: !!binary aGk=", "bytes"),
        ("a: !!set {b}", "set"),
        ("1: a", "the key 1 is no text"),
        ("0: a", "the key 0 is no text"),
        ("a: {null: 1}", "the key None is no text"),
        ("- no: a", "the key False is no text"),
        ("a: [", "not plain YAML"),
        ("? [a]\n: b", "not plain YAML"),
        ("{a: " * 60 + "}" * 60, "nested deeper than 50"),
        ("[" * 20_000, "not plain YAML"),
    ],
)
def test_other_yaml_is_refused_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "9" * 5_000, "[" * 60 + "]" * 60])
def test_other_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not JSON|nested deeper"):
        parse_json(text)


def test_aliases_cannot_make_a_small_file_large() -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    with pytest.raises(ValueError, match="aliases"):
        parse_yaml("\n".join(lines))


@pytest.mark.parametrize("value", ["${a}", {"a": ["b", "c ${oc.env:X} d"]}, {"${a}": 1}, [[["${"]]]])
def test_references_are_refused_at_any_depth(value: Any) -> None:
    with pytest.raises(ValueError, match="references in files are not resolved"):
        refuse_references(value)
    refuse_references({"a": ["$5", "{b}", "$ {c}"]})


def test_a_file_is_regular_small_and_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_bytes(b"\xef\xbb\xbf{}")
    assert read_text(file) == "{}" and read_json(file) == {}
    file.write_bytes(b" " * 101)
    for read in (read_text, read_json):
        with pytest.raises(ValueError, match="it has more than 100 bytes"):
            read(file, 100)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="it is not UTF-8"):
        read_text(file)
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "none")


def test_a_pipe_or_a_device_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    refused: list[str] = []

    def read() -> None:
        for name in ("pipe", "zeros"):
            with pytest.raises(ValueError, match="it is not a regular file"):
                read_text(tmp_path / name)
            refused.append(name)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(5)
    assert refused == ["pipe", "zeros"]


def test_select_takes_the_known_keys() -> None:
    shape = {"name": str, "size": [int], "more": {"rate": (int, float)}, "counts": Each(int), "any": None}
    value = {
        "name": "a",
        "size": [1],
        "more": {"rate": 1, "x": 2},
        "counts": {"b": 1},
        "any": {"c": [1]},
        "other": "<b>",
    }
    expected = {"name": "a", "size": [1], "more": {"rate": 1}, "counts": {"b": 1}, "any": {"c": [1]}}
    assert select(value, shape) == expected
    assert select({}, shape) == {}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "it is a list, not a group of keys"),
        ({"name": 3}, "name is 3, not a text"),
        ({"size": 3}, "size is 3, not a list"),
        ({"size": [1, "2"]}, r"size\[1\] is '2', not a whole number"),
        ({"size": [True]}, r"size\[0\] is True, not a whole number"),
        ({"more": None}, "more is None, not a group of keys"),
        ({"more": {"rate": "fast"}}, r"more\.rate is 'fast', not a whole number or a number"),
        ({"counts": {"a": 1.5}}, r"counts\.a is 1\.5, not a whole number"),
        ({"name": {"a": 1}}, "name is a group of keys, not a text"),
    ],
)
def test_select_refuses_other_types(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        select(value, {"name": str, "size": [int], "more": {"rate": (int, float)}, "counts": Each(int)})
