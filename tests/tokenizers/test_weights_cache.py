"""The cache of published weights, filled from a local HTTP server."""

import hashlib
import http.server
import io
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.message import Message

import pytest
import torch
from published_files import lightning, openai, zipped

from emage import tokenizers
from emage.tokenizers import Published, weight_files, weights_cache


@pytest.fixture(autouse=True)
def trusts_first_downloads(monkeypatch):
    monkeypatch.setenv(weights_cache.TRUST_VARIABLE, "1")


@pytest.fixture
def server():
    """Serves server.files by path, with ranges, and server.redirects; server.requests lists (path, Range header)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            range_header = self.headers.get("Range")
            self.server.requests.append((self.path, range_header))
            if target := self.server.redirects.get(self.path):
                self.send_response(302)
                self.send_header("Location", target)
                return self.end_headers()
            content = self.server.files.get(self.path)
            if content is None:
                return self.send_error(404)
            start = int(range_header.removeprefix("bytes=").rstrip("-")) if range_header else 0
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206 if range_header else 200)
            if not self.server.hides_length:
                self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: self.server.breaks_off_after])

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.requests, server.breaks_off_after = {}, [], None
        server.redirects, server.hides_length = {}, False
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def site(server, model, monkeypatch):
    """Publish the tiny tokenizer on the server: a checkpoint, in a zip if the parameter is "zipped"."""
    server.files |= {"/1": lightning(model), "/2": zipped(lightning(model))}
    for name, urls in {"tiny": {"last.ckpt": "/1"}, "zipped": {"vq.zip": "/2"}}.items():
        urls = {file: server.url + path for file, path in urls.items()}
        monkeypatch.setitem(tokenizers.TOKENIZERS, name, Published(model.config, urls))
    return server


@pytest.mark.parametrize(("name", "file"), [("tiny", "last.ckpt"), ("zipped", "vq.zip")])
def test_downloads_once_and_converts(name, file, site, model, pixels, cache):
    first, second = tokenizers.load(name), tokenizers.load(name)
    assert len(site.requests) == 1
    assert first.sha256 == second.sha256 == weight_files.fingerprint(model.state_dict())
    assert torch.equal(first.encode(pixels), model.encode(pixels))
    left = sorted(path.name for path in cache.rglob("*") if path.suffix != ".lock" and path.is_file())
    assert left == [f"{file}.sha256", f"{name}.safetensors", f"{name}.safetensors.sha256"]


def test_a_dvae_is_two_files(server, dvae, pixels, cache, monkeypatch):
    server.files |= {f"/{name}": content for name, content in openai(dvae).items()}
    urls = {name: f"{server.url}/{name}" for name in openai(dvae)}
    monkeypatch.setitem(tokenizers.TOKENIZERS, "tiny-dvae", Published(dvae.config, urls))
    lost = server.files.pop("/decoder.pkl")
    with pytest.raises(ConnectionError, match="404"):
        tokenizers.load("tiny-dvae")
    server.files["/decoder.pkl"] = lost
    loaded = tokenizers.load("tiny-dvae")
    assert loaded.sha256 == weight_files.fingerprint(dvae.state_dict())
    assert torch.equal(loaded.encode(pixels), dvae.encode(pixels))
    assert [path for path, _ in server.requests] == ["/encoder.pkl", "/decoder.pkl", "/decoder.pkl"]
    assert not list((cache / "tiny-dvae").glob("*.pkl"))


def test_only_one_of_several_threads_downloads(site):
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(tokenizers.load, ["tiny"] * 4))
    assert len({each.sha256 for each in loaded}) == 1 and len(site.requests) == 1


def test_an_interrupted_download_is_resumed(site):
    site.breaks_off_after = 1000
    with pytest.raises(ConnectionError, match="call again to resume"):
        tokenizers.load("tiny")
    site.breaks_off_after = None
    tokenizers.load("tiny")
    assert site.requests == [("/1", None), ("/1", "bytes=1000-")]


def test_a_complete_part_is_not_downloaded_again(site, cache):
    part = cache / "tiny" / "last.ckpt.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(site.files["/1"])
    assert tokenizers.load("tiny").name == "tiny"


def test_a_changed_file_is_rejected(site, cache):
    tokenizers.load("tiny")
    with open(cache / "tiny.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="changed"):
        tokenizers.load("tiny")


def test_a_changed_publication_is_rejected(site, cache):
    tokenizers.load("tiny")
    (cache / "tiny.safetensors").unlink()
    site.files["/1"] += b"x"
    with pytest.raises(ValueError, match="changed"):
        tokenizers.load("tiny")


def test_without_a_sha256_nothing_is_downloaded(site, cache, monkeypatch):
    monkeypatch.delenv(weights_cache.TRUST_VARIABLE)
    with pytest.raises(ConnectionError, match=r"tiny is not downloaded: .* no sha256 of last\.ckpt \(http://") as error:
        tokenizers.load("tiny")
    assert site.requests == []
    sidecar = cache / "tiny" / "last.ckpt.sha256"
    assert str(sidecar) in str(error.value) and "EMAGE_TRUST_FIRST_DOWNLOAD=1" in str(error.value)
    sidecar.write_text(f"{hashlib.sha256(site.files['/1']).hexdigest()}  last.ckpt\n")
    assert tokenizers.load("tiny").name == "tiny"


def test_a_file_with_another_sha256_than_the_users_is_rejected(site, cache, monkeypatch):
    monkeypatch.delenv(weights_cache.TRUST_VARIABLE)
    (cache / "tiny").mkdir(parents=True)
    (cache / "tiny" / "last.ckpt.sha256").write_text("0" * 64)
    with pytest.raises(ValueError, match="changed"):
        tokenizers.load("tiny")
    assert not (cache / "tiny.safetensors").exists()


def test_a_file_with_another_sha256_than_the_published_one_is_deleted(site, cache, monkeypatch):
    monkeypatch.delenv(weights_cache.TRUST_VARIABLE)
    published = tokenizers.TOKENIZERS["tiny"]
    for known, message in (("0" * 64, r"last\.ckpt has the sha256 \w{64}, and 0{64} was published"), (None, None)):
        sha256 = {"last.ckpt": known or hashlib.sha256(site.files["/1"]).hexdigest()}
        monkeypatch.setitem(tokenizers.TOKENIZERS, "tiny", replace(published, sha256=sha256))
        if message:
            with pytest.raises(ConnectionError, match=message):
                tokenizers.load("tiny")
            assert not list((cache / "tiny").glob("last.ckpt*"))
        else:
            assert tokenizers.load("tiny").name == "tiny"


@pytest.mark.parametrize(
    "name", [name for name, entry in tokenizers.TOKENIZERS.items() if isinstance(entry, Published)]
)
def test_no_published_tokenizer_is_downloaded_unknown(name, monkeypatch):
    """By default each has a sha256 for every file, or is refused before anything is asked for."""
    monkeypatch.delenv(weights_cache.TRUST_VARIABLE)
    monkeypatch.setattr(weights_cache, "download", lambda *_: pytest.fail("it was asked for"))
    published = tokenizers.TOKENIZERS[name]
    if published.sha256.keys() != published.urls.keys():
        with pytest.raises(ConnectionError, match=f"{name} is not downloaded"):
            tokenizers.load(name)


def test_a_missing_publication(site):
    del site.files["/1"]
    with pytest.raises(ConnectionError, match="404"):
        tokenizers.load("tiny")


@pytest.mark.parametrize("hidden", [False, True])
def test_a_publication_that_is_too_long(hidden, site, tmp_path):
    """Its length is known, or is not: the download ends soon after the limit, and leaves nothing."""
    site.files["/1"] = bytes(8 << 20)
    site.hides_length = hidden
    with pytest.raises(ConnectionError, match="sends more than the 1,000,000 bytes of what was published"):
        weights_cache.download(f"{site.url}/1", tmp_path / "a.ckpt", max_bytes=1_000_000)
    assert not list(tmp_path.glob("a.ckpt*"))


def redirected(address, url):
    """Return the request that follows a redirect."""
    handler = weights_cache._SafeRedirects()
    return handler.redirect_request(urllib.request.Request(address), io.BytesIO(), 302, "Found", Message(), url)


@pytest.mark.parametrize("url", ["http://a.test/1", "ftp://a.test/1", "http://a.test/1?token=abc"])
def test_a_redirect_from_https_to_another_protocol_is_not_followed(url):
    with pytest.raises(ConnectionError, match=r"redirects to \w+://a.test/1, which is not https"):
        redirected("https://b.test/1", url)


def test_other_redirects_are_followed():
    for address, url in (("https://b.test/1", "https://a.test/1"), ("http://b.test/1", "https://a.test/1")):
        assert redirected(address, url).full_url == url


def test_a_redirect_of_a_server_is_checked(site, tmp_path):
    site.redirects["/2"] = "ftp://127.0.0.1/2"
    with pytest.raises(ConnectionError, match="which is not https"):
        weights_cache.download(f"{site.url}/2", tmp_path / "a.ckpt")
    site.redirects["/2"] = "/1"
    weights_cache.download(f"{site.url}/2", tmp_path / "a.ckpt")
    assert (tmp_path / "a.ckpt").read_bytes() == site.files["/1"]


PAGE = b"<html>This link has expired</html>"


def test_the_next_call_works_after_a_page_instead_of_a_checkpoint(site, model, cache):
    good, site.files["/1"] = site.files["/1"], PAGE
    with pytest.raises(ConnectionError) as error:
        tokenizers.load("tiny")
    assert str(error.value) == (
        "the server sent no checkpoint of tiny (last.ckpt: 34 bytes, which begin with b'<html>This link has '); "
        "try again later or fetch it by hand and pass weights=FILE"
    )
    assert not [path for path in cache.rglob("*") if path.suffix != ".lock" and path.is_file()]
    site.files["/1"] = good
    assert tokenizers.load("tiny").sha256 == weight_files.fingerprint(model.state_dict())


def test_the_next_call_works_after_a_page_that_followed_a_checkpoint(site, cache):
    first = tokenizers.load("tiny")
    (cache / "tiny.safetensors").unlink()
    good, site.files["/1"] = site.files["/1"], PAGE
    with pytest.raises(ConnectionError, match="sent no checkpoint"):
        tokenizers.load("tiny")
    site.files["/1"] = good
    assert tokenizers.load("tiny").sha256 == first.sha256
    site.files["/1"] += b"x"  # the sha256 of the first time is still compared
    (cache / "tiny.safetensors").unlink()
    with pytest.raises(ValueError, match="changed"):
        tokenizers.load("tiny")


def test_a_page_instead_of_half_a_dvae(server, dvae, monkeypatch):
    server.files |= {f"/{name}": content for name, content in openai(dvae).items()}
    urls = {name: f"{server.url}/{name}" for name in openai(dvae)}
    monkeypatch.setitem(tokenizers.TOKENIZERS, "tiny-dvae", Published(dvae.config, urls))
    good, server.files["/decoder.pkl"] = server.files["/decoder.pkl"], PAGE
    with pytest.raises(ConnectionError, match=r"decoder.pkl: 34 bytes, which begin with b'<html.*pass weights=FOLDER"):
        tokenizers.load("tiny-dvae")
    server.files["/decoder.pkl"] = good
    assert tokenizers.load("tiny-dvae").sha256 == weight_files.fingerprint(dvae.state_dict())
