"""load and save: names, files, when a file is converted, and when weights count as the same."""

import hashlib
import os
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from published_files import lightning, openai, zipped

from emage import tokenizers
from emage.tokenizers import Published, published_formats
from emage.tokenizers import weight_files as weights


def test_save_and_load(model, dvae, pixels, tmp_path):
    for tokenizer in (model, dvae):
        path = tmp_path / f"{tokenizer.name}.safetensors"
        sha256 = tokenizers.save(tokenizer, path)
        for loaded in (tokenizers.load_file(path), tokenizers.load(tokenizer.name, weights=path)):
            assert (loaded.name, loaded.config, loaded.sha256) == (tokenizer.name, tokenizer.config, sha256)
            assert torch.equal(loaded.encode(pixels), tokenizer.encode(pixels))
            assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
        tokenizers.save(tokenizer, tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.glob("*.*")) == [
        "again.safetensors",
        "tiny-dvae.safetensors",
        "tiny.safetensors",
    ]


def test_loading_does_not_change_the_random_state(model, tmp_path):
    tokenizers.save(model, tmp_path / "tiny.safetensors")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    tokenizers.load_file(tmp_path / "tiny.safetensors")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_file_of_another_name_is_rejected(model, tmp_path):
    tokenizers.save(model, tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match="holds 'tiny', not 'vqgan-f8-256'"):
        tokenizers.load("vqgan-f8-256", weights=tmp_path / "tiny.safetensors")


def test_unknown_name_gets_the_nearest():
    with pytest.raises(ValueError, match=r"did you mean vqgan-f8-16384\?"):
        tokenizers.load("vqgan-f8-16348")


def test_sizes_are_known_without_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path))  # empty
    found = {name: (size.vocab_size, size.grid) for name in tokenizers.TOKENIZERS for size in [tokenizers.sizes(name)]}
    assert found == {
        "vqgan-demo-f8-512": (512, (8, 8)),
        "dvae": (8192, (32, 32)),
        "vqgan-f16-1024": (1024, (16, 16)),
        "vqgan-f16-16384": (16384, (16, 16)),
        "vqgan-f8-256": (256, (32, 32)),
        "vqgan-f8-16384": (16384, (32, 32)),
        "vqgan-gumbel-f8-8192": (8192, (32, 32)),
    }
    demo = tokenizers.load("vqgan-demo-f8-512")
    assert (demo.vocab_size, demo.grid) == found[demo.name]
    with pytest.raises(ValueError, match="did you mean vqgan-f8-16384"):
        tokenizers.sizes("vqgan-f8-16348")


def test_sizes_of_a_file_are_those_in_it(model, tmp_path):
    tokenizers.save(model, tmp_path / "tiny.safetensors")
    assert tokenizers.sizes(model.name, tmp_path / "tiny.safetensors") == model.config
    with pytest.raises(ValueError, match="holds 'tiny', not 'vqgan-f8-256'"):
        tokenizers.sizes("vqgan-f8-256", tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match="does not exist"):
        tokenizers.sizes("vqgan-f8-256", tmp_path / "absent.ckpt")


def test_missing_file():
    with pytest.raises(ValueError, match="does not exist"):
        tokenizers.load("vqgan-f8-256", weights="not-here.ckpt")


def test_weights_of_another_shape_are_rejected(model, tmp_path, monkeypatch):
    monkeypatch.setitem(tokenizers.TOKENIZERS, "tiny", Published(replace(model.config, vocab_size=11), {}))
    (tmp_path / "last.ckpt").write_bytes(lightning(model))
    with pytest.raises(ValueError, match="do not fit tiny"):
        tokenizers.load("tiny", weights=tmp_path / "last.ckpt")


def test_lightning_checkpoint_with_callback_classes(model, tmp_path, monkeypatch):
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    callbacks = {module.ModelCheckpoint: {"best_model_score": torch.tensor(0.5)}}
    with monkeypatch.context() as patch:  # Lightning is there when the file is written, and not when it is read
        for i in range(1, 4):
            patch.setitem(sys.modules, ".".join(module.__name__.split(".")[:i]), module)
        (tmp_path / "last.ckpt").write_bytes(lightning(model, callbacks=callbacks))
    assert published_formats.read(tmp_path / "last.ckpt").keys() == model.state_dict().keys()


def test_the_checkpoint_may_be_in_a_folder_of_the_zip(model, pixels, tmp_path):
    (tmp_path / "vq.zip").write_bytes(zipped(lightning(model), member="vq-f8/model.ckpt"))
    loaded = tokenizers.load("tiny", weights=tmp_path / "vq.zip")
    assert torch.equal(loaded.encode(pixels), model.encode(pixels))


@pytest.mark.parametrize(
    ("files", "weights", "message"),
    [
        (["encoder.pkl"], ".", "has no decoder.pkl: a dVAE is a folder with encoder.pkl and decoder.pkl"),
        (["encoder.pkl", "decoder.pkl"], "encoder.pkl", "pass the folder that holds encoder.pkl and decoder.pkl"),
        ([], ".", "has no encoder.pkl"),
    ],
)
def test_half_a_dvae_is_rejected(files, weights, message, tmp_path, dvae):
    folder = tmp_path / "dvae"
    folder.mkdir()
    for file in files:
        (folder / file).write_bytes(openai(dvae)[file])
    with pytest.raises(ValueError, match=message):
        tokenizers.load("tiny-dvae", weights=folder / weights)


def test_a_checkpoint_without_tensors(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="no 'state_dict'"):
        tokenizers.load("vqgan-f8-256", weights=tmp_path / "last.ckpt")
    torch.save({"state_dict": {"weight": "none"}}, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match="entries other than tensors"):
        tokenizers.load("vqgan-f8-256", weights=tmp_path / "last.ckpt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 half a zip", b"\x80\x02\x8e" + b"\xff" * 8])
@pytest.mark.parametrize("name", ["last.ckpt", "vq.zip", "encoder.pkl"])
def test_a_damaged_file(content, name, tmp_path):
    (tmp_path / name).write_bytes(content)
    is_dvae = name == "encoder.pkl"
    with pytest.raises(ValueError, match="cannot be loaded safely"):
        tokenizers.load("dvae" if is_dvae else "vqgan-f8-256", weights=tmp_path if is_dvae else tmp_path / name)


HEAD = b"PK\1\2\x14\3\x14\0"  # of a zip's entry in its list of files; flags follow, and the first says "encrypted"
PACKED = zipped(bytes(9999))
DATA = PACKED.index(b"model.ckpt") + len(b"model.ckpt")
JUNK = {
    "page.ckpt": (b"<html>", "Unsupported operand 60"),
    "memo.ckpt": (b"\x80\x02h\x05.", "KeyError: 5"),
    "empty.ckpt": (b"", "EOFError"),
    "list.zip": (PACKED.replace(HEAD, bytes(8)), "BadZipFile: Bad magic number"),
    "packed.zip": (PACKED[:DATA] + b"\xff" * 8 + PACKED[DATA + 8 :], "Error -3 while decompressing"),
    "password.zip": (PACKED.replace(HEAD + b"\0", HEAD + b"\1"), "File 'model.ckpt' is encrypted"),
}


@pytest.mark.parametrize("name", JUNK)
def test_what_is_wrong_is_one_short_reason_and_no_advice_to_load_unsafely(name: str, tmp_path: Path):
    content, wanted = JUNK[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="cannot be loaded safely") as error:
        tokenizers.load("vqgan-f8-256", weights=tmp_path / name)
    line = str(error.value)
    why = line[line.rindex(" (") + 2 : -1]
    assert why.startswith(wanted) and len(why) < 80 and "weights_only" not in line and "\n" not in line


def test_odd_paths(model, tmp_path: Path):
    """Test a folder, and files of another format, instead of the expected file."""
    folder, module, script = tmp_path / "folder.safetensors", tmp_path / "x.pt", tmp_path / "bare.safetensors"
    folder.mkdir()
    torch.save(model.state_dict(), module)
    weights.write(model.state_dict(), script)
    demo = rf"does not hold {tokenizers.DEMO}: pass a .safetensors file that tokenizers.save wrote of it$"
    for name, path, message in (
        (tokenizers.DEMO, tmp_path, demo),
        (tokenizers.DEMO, module, demo),
        (tokenizers.DEMO, script, demo),
        (tokenizers.DEMO, folder, "is a folder, not a safetensors file$"),
        ("tiny", tmp_path, r"is a folder: pass the file in it that holds tiny \(.ckpt, .zip or .safetensors\)$"),
        ("tiny", folder, "is a folder, not a safetensors file$"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            tokenizers.load(name, path)
        assert str(error.value).startswith(f"{path} ")
    with pytest.raises(ValueError, match="is a folder, not a safetensors file"):
        tokenizers.load_file(folder)


def test_a_damaged_safetensors(model, tmp_path):
    path = tmp_path / "tiny.safetensors"
    tokenizers.save(model, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        tokenizers.load("tiny", weights=path)


# ---------------------------------------------------------------------------------------------------------------------
# Identity


def containers(model, folder: Path) -> list[Path]:
    """Return files of every kind with the same weights."""
    folder.mkdir(exist_ok=True)
    (folder / "last.ckpt").write_bytes(lightning(model))
    (folder / "more.ckpt").write_bytes(lightning(model, optimizer_states=[{"lr": 1.0}]))
    (folder / "vq.zip").write_bytes(zipped(lightning(model)))
    tokenizers.save(model, folder / "tiny.safetensors")
    safetensors.torch.save_file(dict(reversed(model.state_dict().items())), folder / "bare.safetensors")
    return sorted(path for path in folder.iterdir() if path.is_file())


def test_the_same_weights_are_the_same_tokenizer_in_any_file(model, pixels, tmp_path):
    loaded = [tokenizers.load("tiny", weights=path) for path in containers(model, tmp_path / "files")]
    assert len(loaded) == 5 and {each.sha256 for each in loaded} == {weights.fingerprint(model.state_dict())}
    assert all(torch.equal(each.encode(pixels), model.encode(pixels)) for each in loaded)


def test_the_fingerprint_by_hand():
    by_hand = hashlib.sha256(b'["a", "torch.float32", [2]]' + b"\0\0\x80?\0\0\0@" + b'["b", "torch.uint8", [1, 1]]\x07')
    tensors = {"b": torch.tensor([[7]], dtype=torch.uint8), "a": torch.tensor([1.0, 2.0])}
    assert weights.fingerprint(tensors) == by_hand.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"b": torch.zeros(2)},
        {"a": torch.ones(2)},
        {"a": torch.zeros(1, 2)},
        {"a": torch.zeros(2, dtype=torch.int32)},
        {"a": torch.zeros(2), "b": torch.zeros(0)},
    ],
)
def test_other_weights_have_another_fingerprint(other):
    assert weights.fingerprint(other) != weights.fingerprint({"a": torch.zeros(2)})


# ---------------------------------------------------------------------------------------------------------------------
# Conversion of a user's own files


def test_a_published_file_is_converted_once(model, tmp_path, cache, monkeypatch):
    path = tmp_path / "last.ckpt"
    path.write_bytes(lightning(model))
    first = tokenizers.load("tiny", weights=path)
    (converted,) = cache.glob("*.safetensors")
    monkeypatch.setattr(published_formats, "read_lightning", None)  # reading it again would fail
    (tmp_path / "moved.ckpt").write_bytes(path.read_bytes())
    assert tokenizers.load("tiny", weights=tmp_path / "moved.ckpt").sha256 == first.sha256
    assert list(cache.glob("*.safetensors")) == [converted]


def test_a_changed_file_is_converted_again(model, tmp_path):
    path = tmp_path / "last.ckpt"
    path.write_bytes(lightning(model))
    before, stamp = tokenizers.load("tiny", weights=path), path.stat()
    model.quantize.embedding.weight.data += 1
    path.write_bytes(lightning(model))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert path.stat().st_size == stamp.st_size
    assert tokenizers.load("tiny", weights=path).sha256 == weights.fingerprint(model.state_dict()) != before.sha256


def test_a_tampered_conversion_is_rejected(model, tmp_path, cache):
    (tmp_path / "last.ckpt").write_bytes(lightning(model))
    tokenizers.load("tiny", weights=tmp_path / "last.ckpt")
    (converted,) = cache.glob("*.safetensors")
    converted.write_bytes(converted.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="changed"):
        tokenizers.load("tiny", weights=tmp_path / "last.ckpt")


def test_a_rejected_file_leaves_no_conversion(tmp_path, cache):
    (tmp_path / "last.ckpt").write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="cannot be loaded safely"):
        tokenizers.load("vqgan-f8-256", weights=tmp_path / "last.ckpt")
    assert not [*cache.glob("*.safetensors*.tmp"), *cache.glob("*.safetensors")]
