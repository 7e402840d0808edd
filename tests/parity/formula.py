"""Tokenizers small enough to record, with weights and images from a formula.

No random generator: its numbers may change with the version of torch, and the recordings in data/ could not be used.
"""

import torch
from torch import Tensor

from emage.tokenizers import Tokenizer
from emage.tokenizers.dvae import DVAE, DVAEConfig
from emage.tokenizers.vqgan import VQGAN, VQGANConfig

# Name of the recording -> the smallest tokenizer of each architecture that the references can build.
TINY = {
    "dvae": DVAEConfig(vocab_size=64, n_hid=4, n_init=4, resolution=64),
    "vqgan-f16": VQGANConfig(64, 32, 32, 32, (1, 1, 2, 2, 4), resolution=64, attention_resolutions=(4,)),
    "vqgan-f8": VQGANConfig(64, 4, 4, 32, (1, 2, 2, 4), resolution=64, attention_resolutions=(8,)),
    "vqgan-gumbel-f8": VQGANConfig(
        64, 32, 32, 32, (1, 1, 2, 4), resolution=64, attention_resolutions=(8,), quantizer="gumbel"
    ),
}
SIZE = (64, 96)  # px; not square, so that rows and columns cannot change places unseen


def noise(count: int, seed: int) -> Tensor:
    """`count` numbers in [-1, 1], multiples of 1/8 so that recorded files compress, that look random."""
    places = torch.arange(count, dtype=torch.float64)
    return ((places * 12.9898 + seed * 78.233).sin() * 43758.5453).frac().mul(8).round().div(8).float()


def fill(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights for every key, of a size at which no layer drowns its input or is drowned by it."""
    weights = {}
    for seed, (key, tensor) in enumerate(sorted(state.items())):
        values = noise(tensor.numel(), seed).view(tensor.shape)
        if "embed" in key:  # the code tables
            weights[key] = values
        elif tensor.ndim > 1:
            power = 12 if key.endswith(".w") else 3  # the dVAE's ReLUs and biases take more than half of it away
            weights[key] = values * (power / tensor[0].numel()) ** 0.5
        else:
            weights[key] = values / 8 + ("norm" in key and key.endswith("weight"))
    return weights


def image(height: int, width: int) -> Tensor:
    """(1, 3, H, W) in [0, 1]: coarse squares and fine grain, so that many codes are in use."""
    squares = noise(3 * height * width // 64, seed=1000).view(1, 3, height // 8, width // 8)
    grain = noise(3 * height * width, seed=1001).view(1, 3, height, width)
    squares = squares.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    return 0.5 + 0.375 * squares + 0.125 * grain


def thinned(pixels: Tensor) -> Tensor:
    """Every third row and column, which is enough to notice any shift: no stride is a multiple of 3."""
    return pixels[:, :, ::3, ::3]


def tiny(name: str) -> Tokenizer:
    config = TINY[name]
    tokenizer = DVAE(config, name) if isinstance(config, DVAEConfig) else VQGAN(config, name)
    tokenizer.load_state_dict(fill(tokenizer.state_dict()))
    return tokenizer.eval()
