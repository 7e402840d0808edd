"""The API key: where it comes from, and which ones are refused."""

from hashlib import sha256
from pathlib import Path

import pytest

from emage.config import AccessConfig, ServeConfig
from emage.on_ray.serving.checks import API_KEY_VARIABLE, read_key_sha256
from emage.utils.errors import InputError

KEY = "vT3-0mbq_Xw81LrA"  # the shortest that is taken


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(API_KEY_VARIABLE, raising=False)


def settings(file: Path) -> ServeConfig:
    return ServeConfig(checkpoint="demo", host="0.0.0.0", access=AccessConfig(api_key_file=str(file)))


def write(file: Path, content: bytes, mode: int = 0o600) -> ServeConfig:
    file.write_bytes(content)
    file.chmod(mode)
    return settings(file)


def test_a_keys_file_overrides_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "another-key-0123456789")
    expected = sha256(KEY.encode()).hexdigest()
    assert read_key_sha256(write(tmp_path / "key", f"{KEY}\n".encode())) == expected
    assert read_key_sha256(write(tmp_path / "key", KEY.encode(), 0o440)) == expected  # a Kubernetes secret


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o601])
def test_a_keys_file_that_others_may_read_or_change_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(InputError, match=r"other users may read or change it: chmod 600 .*key$"):
        read_key_sha256(write(tmp_path / "key", KEY.encode(), mode))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (KEY[:-1].encode(), "easily guessed"),
        (b"a" * 40, "easily guessed"),
        (b"abcdabcdabcdabcd", "easily guessed"),
        (f"{KEY}\n{KEY}".encode(), "one line"),
        (f"{KEY} {KEY}".encode(), "one line"),
        ("clé-très-secrète-0123".encode(), "one line"),
        (f"{KEY}\x00".encode(), "one line"),
        ((KEY * 400).encode(), "one line"),
        (b"\xff\xfe" + KEY.encode("utf-16-le"), "is no text"),
    ],
)
def test_a_key_that_protects_nothing_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_key_sha256(write(tmp_path / "key", content))
    assert KEY not in str(caught.value) and "\n" not in str(caught.value)


def test_a_weak_key_of_the_variable_is_refused_on_this_machine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "secret")
    with pytest.raises(InputError, match=r"^EMAGE_API_KEY: the key is easily guessed"):
        read_key_sha256(ServeConfig(checkpoint="demo"))


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_key_sha256(settings(tmp_path / "none"))
    tmp_path.chmod(0o700)
    with pytest.raises(InputError, match="Is a directory"):
        read_key_sha256(settings(tmp_path))
