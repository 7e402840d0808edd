"""load, save and the cache, with a tiny tokenizer and a local HTTP server."""

import http.server
import io
import os
import sys
import threading
import types
import zipfile
from dataclasses import replace

import pytest
import torch

from emage import manifest, tokenizers
from emage.tokenizers import Published, download, weights
from emage.tokenizers.vqgan import VQGAN, VQGANConfig

CONFIG = VQGANConfig(
    vocab_size=10,
    code_dim=4,
    z_channels=4,
    channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    num_groups=4,
    resolution=8,
    attention_resolutions=(4,),
)
PIXELS = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> VQGAN:
    torch.manual_seed(0)
    return VQGAN(CONFIG, "tiny").eval()


def lightning(model: VQGAN) -> dict:
    state = dict(model.state_dict()) | {"loss.perceptual_loss.weight": torch.zeros(3)}
    return {"state_dict": state, "epoch": 3, "optimizer_states": [], "callbacks": {}}


# ---------------------------------------------------------------------------------------------------------------------
# Files


def test_save_and_load(model, tmp_path):
    path = tmp_path / "tiny.safetensors"
    sha256 = tokenizers.save(model, path)
    for loaded in (tokenizers.load_file(path), tokenizers.load("tiny", weights=path)):
        assert (loaded.name, loaded.config, loaded.sha256) == ("tiny", CONFIG, sha256)
        assert torch.equal(loaded.encode(PIXELS), model.encode(PIXELS))
        assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    assert tokenizers.save(model, tmp_path / "again.safetensors") == sha256
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "tiny.safetensors"]


def test_loading_leaves_the_seed_alone(model, tmp_path):
    tokenizers.save(model, tmp_path / "tiny.safetensors")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    tokenizers.load_file(tmp_path / "tiny.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_of_another_name_is_refused(model, tmp_path):
    tokenizers.save(model, tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match="holds 'tiny', not 'vqgan-f8-256'"):
        tokenizers.load("vqgan-f8-256", weights=tmp_path / "tiny.safetensors")


def test_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match="nearest is 'vqgan-f8-16384'"):
        tokenizers.load("vqgan-f8-16348")


def test_missing_file():
    with pytest.raises(ValueError, match="no file"):
        tokenizers.load("vqgan-f8-256", weights="not-here.ckpt")


def test_lightning_checkpoint(model, tmp_path, monkeypatch):
    monkeypatch.setitem(tokenizers.TOKENIZERS, "tiny", Published(CONFIG, "http://unused"))
    path = tmp_path / "last.ckpt"
    torch.save(lightning(model), path)
    loaded = tokenizers.load("tiny", weights=path)
    assert loaded.sha256 == manifest.sha256(path)
    assert torch.equal(loaded.encode(PIXELS), model.encode(PIXELS))


def test_lightning_checkpoint_with_callback_classes(model, tmp_path, monkeypatch):
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    checkpoint = lightning(model)
    checkpoint["callbacks"] = {module.ModelCheckpoint: {"best_model_score": torch.tensor(0.5)}}
    with monkeypatch.context() as patch:  # Lightning is there when the file is written, and not when it is read
        for i in range(1, 4):
            patch.setitem(sys.modules, ".".join(module.__name__.split(".")[:i]), module)
        torch.save(checkpoint, tmp_path / "last.ckpt")
    assert weights.read(tmp_path / "last.ckpt").keys() == model.state_dict().keys()


def test_weights_of_another_shape_are_refused(model, tmp_path, monkeypatch):
    monkeypatch.setitem(tokenizers.TOKENIZERS, "tiny", Published(replace(CONFIG, vocab_size=11), "http://unused"))
    torch.save(lightning(model), tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="do not fit tiny"):
        tokenizers.load("tiny", weights=tmp_path / "last.ckpt")


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_hostile_checkpoint_runs_nothing(model, tmp_path):
    trace = tmp_path / "ran"
    torch.save(lightning(model) | {"callbacks": Hostile(f"touch {trace}")}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="cannot be loaded safely"):
        tokenizers.load("vqgan-f8-256", weights=tmp_path / "last.ckpt")
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip"])
def test_a_damaged_checkpoint(content, tmp_path):
    (tmp_path / "last.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match="cannot be loaded safely"):
        tokenizers.load("vqgan-f8-256", weights=tmp_path / "last.ckpt")


def test_a_damaged_safetensors(model, tmp_path):
    path = tmp_path / "tiny.safetensors"
    tokenizers.save(model, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        tokenizers.load("tiny", weights=path)


def test_a_checkpoint_without_state_dict(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="no 'state_dict'"):
        tokenizers.load("vqgan-f8-256", weights=tmp_path / "last.ckpt")


# ---------------------------------------------------------------------------------------------------------------------
# Downloads


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves server.files by path, with ranges; server.asked lists (path, Range header)."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            self.server.asked.append((self.path, asked))
            content = self.server.files.get(self.path)
            if content is None:
                return self.send_error(404)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206 if asked else 200)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            self.wfile.write(content[start:][: self.server.breaks_off_after])

        def log_message(self, *_):
            pass

    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.asked, server.breaks_off_after = {}, [], None
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def published(server, model, monkeypatch):
    """The tiny tokenizer as if it were published: at /last.ckpt, and zipped at /model.zip as 'zipped'."""
    buffer = io.BytesIO()
    torch.save(lightning(model), buffer)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("model.ckpt", buffer.getvalue())
    server.files |= {"/last.ckpt": buffer.getvalue(), "/model.zip": archive.getvalue()}
    monkeypatch.setitem(tokenizers.TOKENIZERS, "tiny", Published(CONFIG, f"{server.url}/last.ckpt"))
    monkeypatch.setitem(tokenizers.TOKENIZERS, "zipped", Published(CONFIG, f"{server.url}/model.zip", "model.ckpt"))
    return server


@pytest.mark.parametrize("name", ["tiny", "zipped"])
def test_downloads_once_and_converts(name, published, model):
    first, second = tokenizers.load(name), tokenizers.load(name)
    assert len(published.asked) == 1
    assert first.sha256 == second.sha256 == manifest.sha256(download.cache_folder() / f"{name}.safetensors")
    assert torch.equal(first.encode(PIXELS), model.encode(PIXELS))
    left = sorted(path.name for path in download.cache_folder().iterdir())
    assert left == [f"{name}.download.sha256", f"{name}.safetensors", f"{name}.safetensors.sha256"]


def test_goes_on_after_a_break(published):
    published.breaks_off_after = 1000
    with pytest.raises(ConnectionError, match="call again to go on"):
        tokenizers.load("tiny")
    published.breaks_off_after = None
    tokenizers.load("tiny")
    assert published.asked == [("/last.ckpt", None), ("/last.ckpt", "bytes=1000-")]


def test_a_whole_part_is_taken_as_it_is(published):
    part = download.cache_folder() / "tiny.download.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(published.files["/last.ckpt"])
    assert tokenizers.load("tiny").name == "tiny"


def test_a_changed_file_is_refused(published):
    tokenizers.load("tiny")
    with open(download.cache_folder() / "tiny.safetensors", "ab") as file:
        file.write(b"x")
    with pytest.raises(ValueError, match="changed"):
        tokenizers.load("tiny")


def test_a_changed_publication_is_refused(published):
    tokenizers.load("tiny")
    (download.cache_folder() / "tiny.safetensors").unlink()
    published.files["/last.ckpt"] += b"x"
    with pytest.raises(ValueError, match="changed"):
        tokenizers.load("tiny")


def test_a_missing_publication(published):
    del published.files["/last.ckpt"]
    with pytest.raises(ConnectionError, match="404"):
        tokenizers.load("tiny")
