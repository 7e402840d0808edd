"""Tokenizers: pictures <-> token ids, behind one small interface.

tok = load("vqgan-gumbel-f8-8192")
ids = tok.encode(pixels)        # (B, 3, H, W) in [0, 1] -> (B, N) int64
pixels = tok.decode(ids)
tok.vocab_size, tok.grid, tok.name, tok.sha256
"""

import difflib
from dataclasses import dataclass
from pathlib import Path

import torch

from emage import manifest
from emage.tokenizers import download
from emage.tokenizers import weights as files
from emage.tokenizers.vqgan import VQGAN, VQGANConfig
from emage.tokenizers.weights import load_file, save

__all__ = ["DEMO", "TOKENIZERS", "Published", "load", "load_file", "save"]


@dataclass(frozen=True)
class Published:
    config: VQGANConfig
    url: str  # a Lightning checkpoint, or a zip
    member: str | None = None  # the checkpoint's name inside the zip

    def load(self, name: str, path: str | Path | None, device: str | torch.device) -> VQGAN:
        path = path or download.fetch(name, self.url, self.member)
        return files.build(name, self.config, files.read(path), manifest.sha256(path), device)


@dataclass(frozen=True)
class Shipped:
    """Weights inside this package, which name their own config."""

    file: Path

    def load(self, name: str, path: str | Path | None, device: str | torch.device) -> VQGAN:
        return load_file(path or self.file, device)


DEMO = "vqgan-demo-f8-512"  # 64x64 shapes, see emage.shapes

# Name -> anything with load(name, path, device): path is the user's file or folder, None for our own copy.
TOKENIZERS = {
    DEMO: Shipped(Path(__file__).with_name(f"{DEMO}.safetensors")),
    "vqgan-f16-1024": Published(
        VQGANConfig(vocab_size=1024, channel_mult=(1, 1, 2, 2, 4), attention_resolutions=(16,)),
        "https://heibox.uni-heidelberg.de/f/140747ba53464f49b476/?dl=1",
    ),
    "vqgan-f16-16384": Published(
        VQGANConfig(vocab_size=16384, channel_mult=(1, 1, 2, 2, 4), attention_resolutions=(16,)),
        "https://heibox.uni-heidelberg.de/f/867b05fc8c4841768640/?dl=1",
    ),
    "vqgan-f8-256": Published(
        VQGANConfig(vocab_size=256, code_dim=4, z_channels=4, channel_mult=(1, 2, 2, 4)),
        "https://ommer-lab.com/files/latent-diffusion/vq-f8-n256.zip",
        member="model.ckpt",
    ),
    "vqgan-f8-16384": Published(
        VQGANConfig(vocab_size=16384, code_dim=4, z_channels=4, channel_mult=(1, 2, 2, 4)),
        "https://ommer-lab.com/files/latent-diffusion/vq-f8.zip",
        member="model.ckpt",
    ),
    "vqgan-gumbel-f8-8192": Published(
        VQGANConfig(vocab_size=8192, channel_mult=(1, 1, 2, 4), quantizer="gumbel"),
        "https://heibox.uni-heidelberg.de/f/34a747d5765840b5a99d/?dl=1",
    ),
}


def load(name: str, weights: str | Path | None = None, device: str | torch.device = "cpu") -> VQGAN:
    """A tokenizer by name, in eval mode. weights: a local .safetensors or .ckpt; without it, our own copy.

    A .safetensors that `save` wrote knows its own config, so that its name need not be in TOKENIZERS.
    """
    if weights is not None and not Path(weights).exists():
        raise ValueError(f"no file {weights}")
    if weights is not None and Path(weights).suffix == ".safetensors" and (described := files.describe(weights)):
        if described[0] != name:
            raise ValueError(f"{weights} holds {described[0]!r}, not {name!r}")
        return load_file(weights, device)
    if name not in TOKENIZERS:
        near = difflib.get_close_matches(name, TOKENIZERS, n=1, cutoff=0)
        raise ValueError(f"no tokenizer {name!r}; the nearest is {near[0]!r}. All: {', '.join(TOKENIZERS)}")
    return TOKENIZERS[name].load(name, weights, device)
