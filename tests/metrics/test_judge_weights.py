"""Where the judges' weights come from: the file that was named, the cache, and the network only when asked."""

import hashlib

import pytest
import torch

from emage.errors import InputError
from emage.metrics.weights import Published, find, read

CONTENT = b"weights"
DIGITS = hashlib.sha256(CONTENT).hexdigest()[:8]


@pytest.fixture
def published(serve_folder, tmp_path, monkeypatch):
    folder, url = serve_folder
    (folder / "judge.pth").write_bytes(CONTENT)
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))
    return Published("judge", f"{url}/judge.pth", DIGITS)


def test_nothing_is_fetched_unasked(published):
    assert find(published, None, fetch=False) is None
    assert not published.cached.parent.exists()


def test_fetched_once(published, serve_folder):
    path = find(published, None, fetch=True)
    assert path == published.cached and path.read_bytes() == CONTENT
    (serve_folder[0] / "judge.pth").unlink()
    assert find(published, None, fetch=True) == find(published, None, fetch=False) == path


def test_a_changed_publication_is_refused(published, serve_folder):
    (serve_folder[0] / "judge.pth").write_bytes(b"others")
    for fetch in (True, False):
        with pytest.raises(InputError, match="not what was published"):
            find(published, None, fetch)


def test_the_named_file_wins_and_may_be_another(published, tmp_path):
    published.cached.parent.mkdir(parents=True)
    published.cached.write_bytes(CONTENT)
    (tmp_path / "mine.pth").write_bytes(b"mine")
    assert find(published, str(tmp_path / "mine.pth"), fetch=False) == tmp_path / "mine.pth"
    assert not published.is_genuine(tmp_path / "mine.pth") and published.is_genuine(published.cached)


def test_a_named_file_that_is_missing(published):
    with pytest.raises(InputError, match=r"judge=nowhere.pth: no such file; fetch http.*judge.pth and pass judge=FILE"):
        find(published, "nowhere.pth", fetch=True)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 half a zip"])
def test_a_damaged_file(content, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InputError, match="cannot be loaded safely"):
        read(tmp_path / "weights.pth")


def test_a_file_without_names(tmp_path):
    torch.save(torch.zeros(1), tmp_path / "weights.pth")
    with pytest.raises(InputError, match="holds no weights by name"):
        read(tmp_path / "weights.pth")
