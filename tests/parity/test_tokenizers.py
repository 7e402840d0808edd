"""Ids and pixels are those of the reference implementations on the same weights, as record.py wrote them down."""

import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch
from formula import SIZE, TINY, image, thinned, tiny

from emage import tokenizers
from emage.tokenizers import Published, weight_files

DATA = Path(__file__).with_name("data")


@pytest.mark.parametrize("name", TINY)
def test_ids_and_pixels_are_the_references(name):
    recorded = safetensors.torch.load_file(DATA / f"{name}.safetensors")
    tokenizer = tiny(name)
    ids = tokenizer.encode(image(*SIZE))
    assert torch.equal(ids, recorded["ids"]) and len(ids.unique()) >= 8
    grid = (SIZE[0] // tokenizer.stride, SIZE[1] // tokenizer.stride)
    drawn = thinned(tokenizer.decode(ids, grid))
    torch.testing.assert_close(drawn, recorded["pixels"], rtol=0, atol=1e-4)
    assert drawn.std() > 0.05


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_openais_own_pickles_load(form, tmp_path, monkeypatch):
    """Written by package dall_e, which is not installed here."""
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(tokenizers.TOKENIZERS, "dvae", Published(TINY["dvae"], {}))
    shutil.unpack_archive(DATA / f"dvae-{form}.tar.xz", tmp_path / form)
    loaded = tokenizers.load("dvae", weights=tmp_path / form)
    assert loaded.sha256 == weight_files.fingerprint(tiny("dvae").state_dict())
