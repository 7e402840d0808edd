"""Inception's features from a file in the published form, its weights drawn at random."""

import os

import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3 as theirs

from emage.errors import InputError
from emage.metrics.inception import Inception


@pytest.fixture(scope="module")
def network():
    """torch-fidelity's network before any weights are read: it knows no other way to be made without a file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        return theirs.FeatureExtractorInceptionV3("inception", ["2048"])


def test_features_are_torch_fidelitys(network, tmp_path):
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    found = Inception(tmp_path / "inception.pth")(pixels)
    assert found.shape == (2, Inception.width)
    torch.testing.assert_close(found, network(pixels)[0])
    assert not torch.equal(found[0], found[1])


def test_another_networks_weights_are_refused(tmp_path):
    torch.save({"fc.bias": torch.zeros(1008)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other.pth is no Inception of https.*Missing key") as caught:
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
