"""Inception's features from a file in the published form, with random weights."""

import dataclasses
import os

import inception_file
import pytest
import torch

from emage.evaluation.networks import inception
from emage.evaluation.networks.inception import LAYERS, Inception
from emage.utils import manifest
from emage.utils.errors import InputError


def test_features_of_both_layers_are_torch_fidelitys(tmp_path, monkeypatch):
    path = tmp_path / "inception.pth"
    network = inception_file.write(path)
    monkeypatch.setattr(inception, "WEIGHTS", dataclasses.replace(inception.WEIGHTS, sha256=manifest.sha256(path)))
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    early, last = (Inception(path, width=width) for width in LAYERS)
    for extractor, theirs, width in zip((early, last), network(pixels), LAYERS, strict=True):
        found = extractor(pixels)
        assert found.shape == (2, width) and extractor.width == extractor.metadata["width"] == width
        torch.testing.assert_close(found, theirs)
        assert not torch.equal(found[0], found[1])
    assert (early.name, last.name) == ("inception_64", "inception")  # only the last one's distance is the FID


def test_modes_describe_the_preprocessing():
    pixels = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    pixels[..., 2:] = 255
    rows = {mode: inception.PREPARE[mode](pixels)[0, 0, 150] for mode in inception.MODES}  #  (299,), dark to bright
    assert all(row.shape == (299,) for row in rows.values())
    assert [float(row[0]) for row in rows.values()] == [-1, -1, -1]
    assert [float(row[-1]) for row in rows.values()] == pytest.approx([127 / 128, 1, 127 / 128])
    middles = {mode: float(row[149]) for mode, row in rows.items()}
    # TensorFlow 1 puts pixel 2 at 2 * 299 / 4, the others its left edge there, so that the middle is half-way.
    assert middles["torch-fidelity"] > 0.97 and abs(middles["pytorch-fid"]) < 0.02 and abs(middles["clean"]) < 0.02
    assert float(rows["clean"].diff().min()) == 0 and float(rows["clean"].max()) <= 127 / 128  # its overshoot is cut


def test_weights_of_another_network_are_rejected(tmp_path):
    torch.save({"fc.bias": torch.zeros(1008)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth is not the Inception of https.*Missing key") as caught:
        Inception(tmp_path / "other.pth")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1_000  # of 17,000


class Hostile:
    def __init__(self, command: str):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_a_hostile_file_runs_nothing(tmp_path):
    trace = tmp_path / "ran"
    torch.save({"fc.bias": Hostile(f"touch {trace}")}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="cannot be loaded safely"):
        Inception(tmp_path / "weights.pth")
    assert not trace.exists()
