"""FID, KID, precision and recall compared with their reference implementations: the same folders of images and weights.

The distances are over the 64 features of an early layer, which torch-fidelity and pytorch-fid offer for small sets:
their matrix roots of 2048 x 2048 take minutes. Images are fewer than features, so that covariances are singular;
that the distance is a number all the same is asserted, and over more images than features it was seen to agree alike.
At the 2048 features of the FID the vectors of single images are compared.
"""

from pathlib import Path
from types import SimpleNamespace

import inception_file
import numpy as np
import pytest
import torch
from PIL import Image

from emage.config.evaluation import JudgeConfig
from emage.data import shapes
from emage.data.images import image_files
from emage.evaluation import reference_features
from emage.evaluation.metrics import set_metrics
from emage.evaluation.networks.inception import MODES, Inception

COUNT, SIDE, WIDTH = 20, 96, 64
AGREE = 1e-3  # relative


def drawn(count: int) -> np.ndarray:
    """Of the small world, enlarged. (count, SIDE, SIDE, 3) uint8"""
    small = shapes.render_many(shapes.sample_train_scenes(count, seed=0), seed=0)
    return np.stack([np.asarray(Image.fromarray(image).resize((SIDE, SIDE))) for image in small])


def coloured(count: int) -> np.ndarray:
    """Gradients from one colour to another under noise, of which some has much and some has little."""
    rng = np.random.default_rng(0)
    ends = rng.uniform(0, 255, (count, 2, 1, 1, 3))
    slope = np.linspace(0, 1, SIDE)[:, None, None]
    noise = rng.normal(0, 1, (count, SIDE, SIDE, 3)) * rng.uniform(5, 60, (count, 1, 1, 1))
    return (ends[:, 0] * slope + ends[:, 1] * (1 - slope) + noise).clip(0, 255).astype(np.uint8)


def write(folder: Path, images: np.ndarray) -> str:
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
    return str(folder)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Two folders of images, weights as published, and the network as torch-fidelity has it."""
    place = tmp_path_factory.mktemp("fid")
    network = inception_file.write(place / "weights.pth")
    folders = [write(place / "drawn", drawn(COUNT)), write(place / "coloured", coloured(COUNT))]
    return SimpleNamespace(folders=folders, weights=place / "weights.pth", network=network)


@pytest.fixture(scope="module")
def ours(given):
    """By mode: the features of both folders, each (COUNT, WIDTH)."""
    judges = [JudgeConfig(reference=str(folder)) for folder in given.folders]
    surveys = [reference_features.check_images(one, reference_features.list_images(one, [])) for one in judges]
    extractors = {mode: Inception(given.weights, mode=mode, width=WIDTH) for mode in MODES}
    return {
        mode: [reference_features.features(survey.files, extractor, SIDE, batch_size=16) for survey in surveys]
        for mode, extractor in extractors.items()
    }


def distance(features: list[torch.Tensor]) -> float:
    return set_metrics.fid(*features)["fid"]


@pytest.fixture
def pytorch_fid(given, monkeypatch):
    """The package, with its weights at hand."""
    from pytorch_fid import fid_score, inception

    state = torch.load(given.weights, weights_only=True)
    monkeypatch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: state)
    return SimpleNamespace(fid=fid_score.calculate_fid_given_paths, network=inception.InceptionV3)


def layers(network: torch.nn.Module, last: str) -> torch.nn.Module:
    """What clean-fid has in its TorchScript file: the network behind the scaling, (B, 3, 299, 299) -> (B, D)."""
    parts = dict(network.named_children())
    used = [parts[name] for name in list(parts)[: list(parts).index(last) + 1]]
    return torch.nn.Sequential(*used, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())


def test_torch_fidelity_gives_the_same(given, ours):
    from torch_fidelity import calculate_metrics

    theirs = calculate_metrics(
        input1=given.folders[0],
        input2=given.folders[1],
        fid=True,
        kid=True,
        prc=True,
        feature_extractor="inception-v3-compat",  # precision and recall would be over another network
        **{f"feature_layer_{metric}": str(WIDTH) for metric in ("fid", "kid", "prc")},
        feature_extractor_weights_path=str(given.weights),
        kid_subset_size=COUNT,
        samples_shuffle=False,
        save_cpu_ram=True,  # no processes that load images
        cuda=False,
        cache=False,
        verbose=False,
    )
    features = ours["torch-fidelity"]
    assert distance(features) == pytest.approx(theirs["frechet_inception_distance"], rel=AGREE)
    assert set_metrics.kid(*features)["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=AGREE)
    found = set_metrics.precision_recall(*features)
    assert found == {"precision": theirs["precision"], "recall": theirs["recall"]}


def test_precision_and_recall_between_none_and_all_are_torch_fidelitys(ours):
    from torch_fidelity.metric_prc import prc_features_to_metric

    drawings, colours = ours["torch-fidelity"]
    mixed = torch.cat([drawings[: COUNT // 2], colours[: COUNT // 2]])
    found = set_metrics.precision_recall(mixed, drawings)
    theirs = prc_features_to_metric(mixed, drawings, verbose=False)
    assert found == {"precision": theirs["precision"], "recall": theirs["recall"]}
    assert 0 < found["precision"] < 1


def test_pytorch_fid_gives_the_same(given, ours, pytorch_fid):
    theirs = pytorch_fid.fid(given.folders, COUNT, "cpu", WIDTH, num_workers=0)
    assert distance(ours["pytorch-fid"]) == pytest.approx(theirs, rel=AGREE)


def test_clean_fid_gives_the_same(given, ours):
    from cleanfid import fid

    network = layers(given.network, "MaxPool_1")
    theirs = fid.compute_fid(
        *given.folders,
        mode="clean",
        custom_feat_extractor=lambda x: network((x - 128) / 128),  # its own views every output as (B, 2048)
        num_workers=0,
        device=torch.device("cpu"),
        verbose=False,
    )
    assert distance(ours["clean"]) == pytest.approx(theirs, rel=AGREE)


def test_the_modes_differ_and_covariances_count(ours):
    found = {mode: distance(features) for mode, features in ours.items()}
    for one in MODES:
        for other in MODES:
            assert one == other or abs(found[one] / found[other] - 1) > 3 * AGREE
        means = (ours[one][0].mean(0) - ours[one][1].mean(0)).square().sum()
        assert found[one] > float(means) * (1 + 10 * AGREE)


def test_the_features_of_the_fid_are_theirs(given, pytorch_fid, monkeypatch):
    from cleanfid.inception_torchscript import InceptionV3W
    from cleanfid.resize import build_resizer

    files = [image_files.find(folder).files[0] for folder in given.folders]
    (pixels,) = image_files.batches(files, SIDE, 2, crop=image_files.crop_exactly)
    found = {mode: Inception(given.weights, mode=mode)(pixels) for mode in MODES}

    wrapped = torch.nn.Module()
    wrapped.layers = layers(given.network, "Mixed_7c")
    monkeypatch.setattr(torch.jit, "load", lambda path: wrapped)
    resized = np.stack([build_resizer("clean")(image) for image in pixels.permute(0, 2, 3, 1).numpy()])
    cleans = InceptionV3W("", download=False)(torch.from_numpy(resized).permute(0, 3, 1, 2))
    theirs = {
        "torch-fidelity": given.network(pixels)[-1],
        "pytorch-fid": pytorch_fid.network().eval()(pixels / 255)[0].flatten(1),
        "clean": cleans,
    }
    for mode in MODES:
        torch.testing.assert_close(found[mode], theirs[mode], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found["clean"], found["pytorch-fid"], rtol=1e-2)
