"""Feature extractors: the tokenizer's quadrants by hand, Inception from a server or unavailable."""

import dataclasses
import os
from types import SimpleNamespace

import inception_file
import pytest
import torch

from emage import tokenizers
from emage.evaluation.metrics import set_metrics
from emage.evaluation.networks import features, inception
from emage.evaluation.scoring import Scorer
from emage.tokenizers.dvae import DVAE, DVAEConfig
from emage.utils import manifest
from emage.utils.errors import InputError


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.load(tokenizers.DEMO)


def noise(side: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_the_tokenizers_features_are_the_means_of_its_quadrants(tokenizer):
    extractor = features.load("tokenizer", tokenizer=tokenizer)
    pixels = noise()
    found = extractor(pixels)
    z = tokenizer.latents(pixels / 255)  #                  (2, C, 8, 8)
    assert found.shape == (2, extractor.width) == (2, 4 * z.shape[1]) and found.dtype == torch.float32
    found = found.unflatten(1, (-1, 2, 2))
    torch.testing.assert_close(found[:, :, 0, 1], z[:, :, :4, 4:].mean((2, 3)))
    torch.testing.assert_close(found[:, :, 1, 0], z[:, :, 4:, :4].mean((2, 3)))


def test_layout_counts(tokenizer):
    extractor = features.load("tokenizer", tokenizer=tokenizer)
    corner = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    corner[:, :, :16, :16] = 255
    assert (extractor(corner) - extractor(corner.flip(3))).abs().max() > 0.1


def test_images_of_another_size_are_resized_with_antialias(tokenizer):
    extractor = features.load("tokenizer", tokenizer=tokenizer)
    lines = torch.zeros(1, 3, 128, 128, dtype=torch.uint8)
    lines[:, :, ::2] = 255  # of which every second line alone would be white or black
    black, grey, white = (extractor(torch.full((1, 3, 64, 64), value, dtype=torch.uint8)) for value in (0, 127, 255))
    found = extractor(lines)
    assert 2 * torch.dist(found, grey) < min(torch.dist(found, black), torch.dist(found, white))


def test_the_dvaes_features_are_its_mean_codes():
    torch.manual_seed(0)
    dvae = DVAE(DVAEConfig(n_hid=8, vocab_size=32, n_init=6, resolution=32)).eval()
    extractor = features.load("tokenizer", tokenizer=dvae)
    found = extractor(noise(32)).unflatten(1, (-1, 2, 2))
    weights = dvae.encoder(0.8 * noise(32) / 255 + 0.1).softmax(1)  #  (2, V, 4, 4)
    codes = dvae.decoder.blocks[0].w[:, :, 0, 0]  #                   (6, V)
    expected = torch.einsum("bvhw,ev->behw", weights, codes)
    assert found.shape == (2, 6, 2, 2) and extractor.width == 24
    torch.testing.assert_close(found[:, :, 1, 1], expected[:, :, 2:, 2:].mean((2, 3)))


def test_metadata_names_the_network_and_its_weights(tokenizer):
    metadata = features.load("tokenizer", tokenizer=tokenizer).metadata
    assert metadata["weights_sha256"] == tokenizer.sha256 and metadata["width"] == 64 and metadata["published"] is False
    assert tokenizers.DEMO in metadata["network"] and "64 px" in metadata["preprocessing"]


@pytest.fixture(scope="module")
def weights_file(tmp_path_factory):
    """An Inception of random weights."""
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    inception_file.write(path)
    return path


def test_the_published_inception_is_fetched_once_and_gives_an_fid(
    weights_file, serve_folder, tokenizer, tmp_path, monkeypatch
):
    folder, url = serve_folder
    os.link(weights_file, folder / "inception.pth")
    published = dataclasses.replace(
        inception.WEIGHTS,
        url=f"{url}/inception.pth",
        sha256=manifest.sha256(weights_file),
        num_bytes=weights_file.stat().st_size,
    )
    monkeypatch.setattr(inception, "WEIGHTS", published)
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))
    extractor = features.load("inception", mode="clean", tokenizer=tokenizer)
    assert published.cached.exists() and extractor.name == "inception" and extractor.width == 2048
    assert extractor.metadata["mode"] == "clean" and "PIL bicubic" in extractor.metadata["preprocessing"]
    assert extractor.metadata["published"] is True and len(extractor.metadata["weights_sha256"]) == 64
    assert set_metrics.metric_name("fid", extractor) == "fid" and set_metrics.metric_name("kid", extractor) == "kid"


def test_other_weights_give_no_fid(weights_file, tokenizer):
    extractor = features.load("inception", inception_file=str(weights_file), tokenizer=tokenizer)
    assert extractor.name == "inception_unpublished" and extractor.metadata["published"] is False
    assert set_metrics.metric_name("fid", extractor) == "frechet_inception_unpublished"


def test_without_internet_access_the_tokenizer_is_used(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path))
    nowhere = dataclasses.replace(inception.WEIGHTS, url="http://127.0.0.1:1/inception.pth")
    monkeypatch.setattr(inception, "WEIGHTS", nowhere)
    with pytest.warns(
        UserWarning, match=r"no Inception weights .*is not an FID; fetch http.* and pass inception=FILE"
    ) as said:
        extractor = features.load("inception", tokenizer=tokenizer)
    assert extractor.name == "tokenizer" and "\n" not in str(said[0].message)


def test_a_missing_file_is_not_replaced_by_another(tokenizer):
    with pytest.raises(InputError, match=r"inception=nowhere.pth: no such file"):
        features.load("inception", inception_file="nowhere.pth", tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        ("fid", "frechet_tokenizer"),
        ("kid", "kid_tokenizer"),
        ("kid_std", "kid_std_tokenizer"),
        ("recall", "recall_tokenizer"),
    ],
)
def test_names_of_metrics_of_other_features(metric, name):
    assert set_metrics.metric_name(metric, SimpleNamespace(name="tokenizer")) == name


def test_texts_in_metadata_are_those_of_folders_on_disk(tokenizer):
    """Other texts would give a scorer another folder, and every evaluation would score its images again."""
    extractor = features.load("tokenizer", tokenizer=tokenizer)
    scorer = Scorer(extractor.name, extractor.metadata, lambda images, captions: torch.empty(0))
    assert scorer.folder == "tokenizer-c53e43e8fcfc"
