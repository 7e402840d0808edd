"""The FID's Inception network with random weights, in its published form."""

from pathlib import Path

import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3 as theirs

LAYERS = ["64", "2048"]


def random_network() -> theirs.FeatureExtractorInceptionV3:
    """Return torch-fidelity's network with features of order 1. It cannot be created without a file: patched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(theirs.FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = theirs.FeatureExtractorInceptionV3("inception", LAYERS)
    rng = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):  # its own initial weights make features of 1e-8
            torch.nn.init.kaiming_normal_(module.weight, generator=rng)
    return network


def write(path: Path) -> theirs.FeatureExtractorInceptionV3:
    network = random_network()
    torch.save(network.state_dict(), path)
    return network
