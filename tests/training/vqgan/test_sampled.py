"""A tokenizer is trained on any images: flat colours and gradients here, more patches than codes."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from web import encode

from emage import tokenizers
from emage.training import train_vqgan
from emage.training.vqgan import report, sampled
from emage.training.vqgan.patches import distinct_patches, read_images
from emage.training.vqgan.sampled import Recipe, choose_codes, train_on

CONFIG = replace(train_vqgan.CONFIG, vocab_size=32, channels=8, resolution=16)
RECIPE = Recipe(encoder_steps=120, decoder_steps=30, batch=4, lr=1e-2, seed=0)


def gradients(count: int) -> torch.Tensor:
    """Return images (n, 3, 16, 16) uint8: from a random colour on the left to a random one on the right."""
    left, right = torch.randint(256, (2, count, 3, 1, 1), generator=torch.Generator().manual_seed(1))
    share = torch.linspace(0, 1, 16)
    return (left * (1 - share) + right * share).round().to(torch.uint8).expand(-1, -1, 16, -1).contiguous()


@pytest.fixture(scope="module")
def trained():
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampled, "PATCHES_PER_STEP", 128)
        return train_on(gradients(200), CONFIG, "mine", RECIPE)


def explained(model) -> float:
    """Return the share of the variance of the patches that their codes explain."""
    data = distinct_patches(gradients(200))
    patches = data.patches.float().flatten(1) / 255
    ids = torch.empty(len(patches), dtype=torch.long)
    ids[data.indices.flatten()] = model.encode(gradients(200).float() / 255).flatten()
    means = torch.zeros(32, patches.shape[1]).index_add_(0, ids, patches) / ids.bincount(minlength=32)[:, None]
    return 1 - float((patches - means[ids]).square().sum() / (patches - patches.mean(0)).square().sum())


def test_it_learns_from_a_sample_of_the_patches(trained):
    assert len(distinct_patches(gradients(200)).patches) == 400 > 10 * CONFIG.vocab_size
    untrained = train_on(gradients(200), CONFIG, "mine", replace(RECIPE, encoder_steps=1, decoder_steps=1))
    assert explained(trained) > 0.5 > 0.42 > explained(untrained)
    assert report.psnr(trained, gradients(200)) > report.psnr(untrained, gradients(200)) + 0.5
    assert report.codes_in_use(trained, gradients(200)) == 32


def test_encode_gives_the_codes_that_the_decoder_was_trained_on(trained):
    data = distinct_patches(gradients(200))
    codes = trained.quantize.codes.clone()
    torch.testing.assert_close(codes.norm(dim=1), torch.ones(32))
    latents = torch.nn.functional.normalize(trained.latents(data.patches.float() / 255).flatten(1), dim=1)
    ids = trained.encode(gradients(200).float() / 255)
    assert torch.equal(ids, (latents @ codes.T).argmax(1)[data.indices])


def test_it_is_deterministic():
    few = replace(RECIPE, encoder_steps=2, decoder_steps=2)
    first, second = (train_on(gradients(20), CONFIG, "mine", few).state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_more_codes_than_patches():
    model = train_vqgan.VQGAN(replace(CONFIG, vocab_size=64), "mine")
    model.requires_grad_(False)
    ids = choose_codes(model, distinct_patches(gradients(3)), torch.Generator().manual_seed(0))
    assert ids.shape == (6,) and model.quantize.codes.norm(dim=1).allclose(torch.ones(64))


def test_psnr_of_a_known_error(monkeypatch):
    images = torch.full((3, 3, 16, 16), 100, dtype=torch.uint8)
    monkeypatch.setattr(report, "reconstruct", lambda model, pixels: pixels + 0.1)  # an error of 20 dB
    assert report.psnr(None, images) == pytest.approx(20, abs=1e-3)  # type: ignore[arg-type]


def test_transparent_images_are_read_over_white(tmp_path: Path):
    image = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    image.paste((0, 0, 200, 255), (0, 0, 8, 16))
    pq.write_table(pa.table({"image": pa.array([encode(image, "PNG")])}), tmp_path / "a.parquet")
    (pixels,) = read_images(str(tmp_path / "a.parquet"), 16)
    assert pixels[:, 0, 0].tolist() == [0, 0, 200] and pixels[:, 0, 15].tolist() == [255, 255, 255]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["train_vqgan", *arguments])
    train_vqgan.main()


def test_the_command_trains_on_a_folder(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "images").mkdir()
    for i, pixels in enumerate(gradients(20)):
        Image.fromarray(np.asarray(pixels.permute(1, 2, 0))).save(tmp_path / "images" / f"{i}.png")
    out, grid = tmp_path / "mine.safetensors", tmp_path / "grid.png"
    small = ["--side", "24", "--codes", "8", "--steps", "2", "--encoder-steps", "2", "--batch", "2", "--name", "mine"]
    run(monkeypatch, "--images", str(tmp_path / "images"), *small, "--out", str(out), "--grid", str(grid))
    said = capsys.readouterr().out
    assert "PSNR of 2 held-out images: " in said and "of 8" in said
    tokenizer = tokenizers.load("mine", out)
    assert (tokenizer.vocab_size, tokenizer.grid) == (8, (3, 3))
    assert Image.open(grid).size == (8 * 25, 2 * 25)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "nowhere"], "nowhere: no such folder"),
        (["--images", "few"], "few: 3 usable images; a tokenizer needs ten or more"),
        (["--images", "few", "--side", "20"], "--side 20 --codes 1024: a multiple of 8"),
        (["--images", "few", "--codes", "1"], "--side 128 --codes 1: a multiple of 8, and 2 codes or more"),
    ],
)
def test_bad_input_is_one_line(tmp_path: Path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "few").mkdir()
    for i, pixels in enumerate(gradients(3)):
        Image.fromarray(np.asarray(pixels.permute(1, 2, 0))).save(tmp_path / "few" / f"{i}.png")
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.glob("*.safetensors"))
