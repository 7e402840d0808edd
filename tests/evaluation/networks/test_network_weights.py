"""Weights of metric networks come from the named file, the cache, and the network only on request."""

import dataclasses
import hashlib
import http.server
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest
import torch

from emage.evaluation.metrics.psnr_lpips import ALEXNET, Lpips
from emage.evaluation.networks.inception import WEIGHTS, Inception
from emage.evaluation.networks.network_weights import PublishedWeights, find, read
from emage.utils.errors import InputError

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def published(serve_folder, tmp_path, monkeypatch):
    folder, url = serve_folder
    (folder / "judge.pth").write_bytes(CONTENT)
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))
    return PublishedWeights("judge", f"{url}/judge.pth", SHA256, len(CONTENT))


def test_nothing_is_fetched_without_request(published):
    assert find(published, None, fetch=False) is None
    assert not published.cached.parent.exists()


def test_fetched_once(published, serve_folder):
    path = find(published, None, fetch=True)
    assert path == published.cached and path.read_bytes() == CONTENT
    (serve_folder[0] / "judge.pth").unlink()
    assert find(published, None, fetch=True) == find(published, None, fetch=False) == path


class Slow(http.server.BaseHTTPRequestHandler):
    """Send CONTENT in two halves, so that a second download would begin between them; record the requests."""

    asked: ClassVar[list[str | None]] = []

    def do_GET(self):
        self.asked.append(self.headers.get("Range"))
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        for half in (CONTENT[:4], CONTENT[4:]):
            self.wfile.write(half)
            self.wfile.flush()
            time.sleep(0.3)

    def log_message(self, *_):
        pass


def test_of_several_processes_one_fetches(tmp_path, monkeypatch):
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))
    Slow.asked.clear()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as server, ThreadPoolExecutor(3) as pool:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        judge = PublishedWeights("judge", f"http://127.0.0.1:{server.server_port}/judge.pth", SHA256, len(CONTENT))
        found = list(pool.map(lambda _: find(judge, None, True), range(3)))
        server.shutdown()
    assert found == [judge.cached] * 3 and judge.cached.read_bytes() == CONTENT
    assert Slow.asked == [None]


@pytest.mark.parametrize(("judge", "package"), [(Inception, "torch_fidelity"), (Lpips, "lpips")])
def test_a_missing_package_is_one_line(judge, package, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    with pytest.raises(InputError, match=r'cannot be imported .*: pip install "emage\[pipelines\]"$') as error:
        judge(tmp_path / "weights.pth")
    assert "\n" not in str(error.value)


def test_a_changed_publication_is_rejected(published, serve_folder):
    (serve_folder[0] / "judge.pth").write_bytes(b"others")
    for fetch in (True, False):
        with pytest.raises(InputError, match="not what was published"):
            find(published, None, fetch)


def test_a_file_that_differs_only_after_the_first_digits_is_not_the_published_one(published, tmp_path):
    (tmp_path / "mine.pth").write_bytes(CONTENT)
    similar = dataclasses.replace(published, sha256=SHA256[:8] + 56 * "0")
    assert published.matches(tmp_path / "mine.pth") and not similar.matches(tmp_path / "mine.pth")


def test_a_longer_publication_is_not_read_to_its_end(published, serve_folder):
    (serve_folder[0] / "judge.pth").write_bytes(CONTENT + bytes(10 << 20))
    with pytest.raises(ConnectionError, match="sends more than the 7 bytes of what was published"):
        find(published, None, fetch=True)
    assert [path.name for path in published.cached.parent.iterdir()] == ["judge.pth.lock"]


@pytest.mark.parametrize("weights", [WEIGHTS, ALEXNET])
def test_published_files_are_known_by_whole_hashes(weights):
    assert re.fullmatch(r"[0-9a-f]{64}", weights.sha256)
    assert f"-{weights.sha256[:8]}.pth" in weights.url  # their names have the first digits


def test_the_named_file_is_used_and_may_hold_other_weights(published, tmp_path):
    published.cached.parent.mkdir(parents=True)
    published.cached.write_bytes(CONTENT)
    (tmp_path / "mine.pth").write_bytes(b"mine")
    assert find(published, str(tmp_path / "mine.pth"), fetch=False) == tmp_path / "mine.pth"
    assert not published.matches(tmp_path / "mine.pth") and published.matches(published.cached)


def test_a_named_file_that_is_missing(published):
    with pytest.raises(InputError, match=r"judge=nowhere.pth: no such file; fetch http.*judge.pth and pass judge=FILE"):
        find(published, "nowhere.pth", fetch=True)


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 half a zip"])
def test_a_damaged_file(content, tmp_path):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(InputError, match="cannot be loaded safely") as error:
        read(tmp_path / "weights.pth")
    assert "weights_only" not in str(error.value)


def test_a_file_without_names(tmp_path):
    torch.save(torch.zeros(1), tmp_path / "weights.pth")
    with pytest.raises(InputError, match="does not hold weights by name"):
        read(tmp_path / "weights.pth")
