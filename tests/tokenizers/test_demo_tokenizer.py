"""The shipped tokenizer, on newly rendered shapes."""

import pytest
import safetensors.torch
import torch

from emage import tokenizers
from emage.data import shapes
from emage.tokenizers import DEMO, TOKENIZERS, weight_files
from emage.training.train_vqgan import CONFIG, correct_fraction, to_pixels


@pytest.fixture(scope="module")
def demo():
    return tokenizers.load(DEMO)


def test_name_and_sizes(demo):
    assert (demo.name, demo.config, demo.vocab_size, demo.grid) == (DEMO, CONFIG, 512, (8, 8))
    assert demo.sha256 == weight_files.fingerprint(safetensors.torch.load_file(TOKENIZERS[DEMO].file))
    assert TOKENIZERS[DEMO].file.stat().st_size <= 3e6


@pytest.mark.parametrize("sample", [shapes.sample_train_scenes, shapes.sample_unseen_kind_scenes])
def test_reconstructions_are_readable(demo, sample):
    assert correct_fraction(demo, sample(200, seed=77), seed=77) >= 0.98


def test_reconstructions_are_close(demo):
    pixels = to_pixels(shapes.render_many(shapes.sample_scenes(50, seed=78), seed=78))
    assert (demo.decode(demo.encode(pixels)) - pixels).abs().mean() < 0.02


def test_equal_patches_get_equal_codes_and_different_ones_different(demo):
    pixels = to_pixels(shapes.render_many(shapes.sample_train_scenes(200, seed=79), seed=79))
    patches = pixels.unflatten(3, (8, 8)).unflatten(2, (8, 8)).permute(0, 2, 4, 1, 3, 5).flatten(0, 2).flatten(1)
    ids = demo.encode(pixels).flatten()
    codes_of: dict[bytes, set[int]] = {}
    for patch, code in zip(patches.numpy(), ids.tolist(), strict=True):
        codes_of.setdefault(patch.tobytes(), set()).add(code)
    assert all(len(codes) == 1 for codes in codes_of.values())
    assert len(set.union(*codes_of.values())) == len(codes_of) > 100


def test_the_background_is_one_code(demo):
    assert len(demo.encode(torch.ones(1, 3, 64, 64)).unique()) == 1


def test_an_image_keeps_its_codes_in_any_batch(demo):
    pixels = to_pixels(shapes.render_many(shapes.sample_scenes(20, seed=80), seed=80))
    alone = torch.cat([demo.encode(one[None]) for one in pixels])
    assert torch.equal(demo.encode(pixels), alone)
