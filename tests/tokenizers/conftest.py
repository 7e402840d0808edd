"""Tokenizers of a few kB, and a separate cache for each test."""

from pathlib import Path

import pytest
import torch

from emage import tokenizers
from emage.tokenizers import Published
from emage.tokenizers.dvae import DVAE, DVAEConfig
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


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tokenizers"


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(monkeypatch) -> VQGAN:
    """Return a tokenizer that `load` finds under the name "tiny"."""
    torch.manual_seed(0)
    monkeypatch.setitem(tokenizers.TOKENIZERS, "tiny", Published(CONFIG, {}))
    return VQGAN(CONFIG, "tiny").eval()


@pytest.fixture
def dvae(monkeypatch) -> DVAE:
    """Return a tokenizer that `load` finds under the name "tiny-dvae"."""
    config = DVAEConfig(vocab_size=16, n_hid=4, n_init=4, resolution=16)
    torch.manual_seed(0)
    monkeypatch.setitem(tokenizers.TOKENIZERS, "tiny-dvae", Published(config, {}))
    return DVAE(config, "tiny-dvae").eval()
