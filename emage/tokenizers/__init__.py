"""Image tokenizers: images to token ids and back, loaded by name.

    tokenizer = tokenizers.load("vqgan-gumbel-f8-8192")
    ids = tokenizer.encode(pixels)      # (B,3,H,W) in [0,1] -> (B,N) int64
    pixels = tokenizer.decode(ids)      # (B,N) -> (B,3,H,W)
    tokenizer.vocab_size, tokenizer.grid, tokenizer.stride, tokenizer.name, tokenizer.sha256

Letters: B images, N tokens, H W image in pixels.
"""

from dataclasses import dataclass, field
from pathlib import Path

import torch

from emage.config import nearest
from emage.tokenizers import published_formats, weight_files, weights_cache
from emage.tokenizers.dvae import DVAEConfig
from emage.tokenizers.vqgan import VQGANConfig
from emage.tokenizers.weight_files import Config, Tokenizer, load_file, save

__all__ = ["DEMO", "TOKENIZERS", "Published", "Tokenizer", "load", "load_file", "needs_download", "save", "sizes"]


@dataclass(frozen=True)
class Published:
    """A tokenizer whose weights were published. They are downloaded once and converted to safetensors.

    Attributes:
        config: Sizes of the network.
        urls: File name -> URL; emage/tokenizers/published_formats.py lists the formats.
        sha256: File name -> its sha256. The publishers of those below state none: the user has to know it, or to trust
            the first download (emage/tokenizers/weights_cache.py).
    """

    config: Config
    urls: dict[str, str]
    sha256: dict[str, str] = field(default_factory=dict)

    def load(self, name: str, path: str | Path | None, device: str | torch.device) -> Tokenizer:
        """Load the weights at `path`, or the published ones from the cache or the internet."""
        if path is None:
            path = weights_cache.fetch(name, self.urls, self.sha256)
        elif Path(path).is_dir() and isinstance(self.config, VQGANConfig):
            raise ValueError(f"{path} is a folder: pass the file in it that holds {name} (.ckpt, .zip or .safetensors)")
        elif Path(path).suffix != ".safetensors":
            path = weights_cache.convert(path)
        return weight_files.build(name, self.config, published_formats.read(path), device)


@dataclass(frozen=True)
class Shipped:
    """A tokenizer whose weights are a file of this package, which holds its config as well."""

    file: Path

    @property
    def config(self) -> Config:
        """Return the sizes of the network."""
        described = weight_files.describe(self.file)
        assert described is not None
        return described[1]

    def load(self, name: str, path: str | Path | None, device: str | torch.device) -> Tokenizer:
        """Load the shipped file. Raise ValueError if there is a `path`."""
        if path is not None:  # a file that names this tokenizer was loaded by `load` itself
            raise ValueError(f"{path} does not hold {name}: pass a .safetensors file that tokenizers.save wrote of it")
        return load_file(self.file, device)


DEMO = "vqgan-demo-f8-512"  # the shipped one, for 64x64 images of shapes (emage.data.shapes)

# Name -> an object with load(name, path, device). `path`: the user's file or folder; None: published or shipped.
TOKENIZERS = {
    DEMO: Shipped(Path(__file__).parent / "pretrained" / f"{DEMO}.safetensors"),
    "dvae": Published(
        DVAEConfig(),
        {
            "encoder.pkl": "https://cdn.openai.com/dall-e/encoder.pkl",
            "decoder.pkl": "https://cdn.openai.com/dall-e/decoder.pkl",
        },
    ),
    "vqgan-f16-1024": Published(
        VQGANConfig(vocab_size=1024, channel_mult=(1, 1, 2, 2, 4), attention_resolutions=(16,)),
        {"last.ckpt": "https://heibox.uni-heidelberg.de/f/140747ba53464f49b476/?dl=1"},
    ),
    "vqgan-f16-16384": Published(
        VQGANConfig(vocab_size=16384, channel_mult=(1, 1, 2, 2, 4), attention_resolutions=(16,)),
        {"last.ckpt": "https://heibox.uni-heidelberg.de/f/867b05fc8c4841768640/?dl=1"},
    ),
    "vqgan-f8-256": Published(
        VQGANConfig(vocab_size=256, code_dim=4, z_channels=4, channel_mult=(1, 2, 2, 4)),
        {"vq-f8-n256.zip": "https://ommer-lab.com/files/latent-diffusion/vq-f8-n256.zip"},
    ),
    "vqgan-f8-16384": Published(
        VQGANConfig(vocab_size=16384, code_dim=4, z_channels=4, channel_mult=(1, 2, 2, 4)),
        {"vq-f8.zip": "https://ommer-lab.com/files/latent-diffusion/vq-f8.zip"},
    ),
    "vqgan-gumbel-f8-8192": Published(
        VQGANConfig(vocab_size=8192, channel_mult=(1, 1, 2, 4), quantizer="gumbel"),
        {"last.ckpt": "https://heibox.uni-heidelberg.de/f/34a747d5765840b5a99d/?dl=1"},
    ),
}


def needs_download(name: str, weights: str | Path | None = None) -> bool:
    """Return whether `load` would download the weights of this published tokenizer."""
    is_published = weights is None and isinstance(TOKENIZERS.get(name), Published)
    return is_published and not weights_cache.cached(name).exists()


def is_shipped(name: str) -> bool:
    """Return whether the package holds the weights of this tokenizer."""
    return isinstance(TOKENIZERS.get(name), Shipped)


def sizes(name: str, weights: str | Path | None = None) -> Config:
    """Return the sizes of a tokenizer, `vocab_size` and `grid` among them, without reading or downloading its weights.

    The arguments and errors are those of `load`.
    """
    described = _check(name, weights)
    return described[1] if described else TOKENIZERS[name].config


def load(name: str, weights: str | Path | None = None, device: str | torch.device = "cpu") -> Tokenizer:
    """Load a tokenizer by name, in eval mode.

    Args:
        name: A name in TOKENIZERS, or the name inside a file that `save` wrote.
        weights: A .safetensors file, or a published file (a .ckpt, a .zip with a model.ckpt inside, for "dvae" a folder
            with encoder.pkl and decoder.pkl), which is converted once. None: the shipped weights, or published ones,
            which are downloaded once into the cache.
        device: The device to load the weights on.

    Returns:
        A module with `encode`, `decode`, `vocab_size`, `grid`, `name` and `sha256`.

    Raises:
        ValueError: An unknown name, or weights of another tokenizer.
        ConnectionError: The download failed, and the next call resumes it; or nothing says which file it should be.

    Examples:
        ```python
        from emage import tokenizers

        tokenizer = tokenizers.load("vqgan-demo-f8-512")
        tokens = tokenizer.encode(pixels)  # (B, 3, 64, 64) in [0, 1] -> (B, 64) int64
        pixels = tokenizer.decode(tokens)
        ```
    """
    if _check(name, weights) and weights is not None:
        return load_file(weights, device)
    return TOKENIZERS[name].load(name, weights, device)


def _check(name: str, weights: str | Path | None) -> tuple[str, Config] | None:
    """Return name and sizes in a file that `save` wrote, None for others. Raise ValueError if the two do not fit."""
    if weights is not None and not Path(weights).exists():
        raise ValueError(f"{weights} does not exist")
    if weights is not None and Path(weights).suffix == ".safetensors" and (described := weight_files.describe(weights)):
        if described[0] != name:
            raise ValueError(f"{weights} holds {described[0]!r}, not {name!r}")
        return described
    if name not in TOKENIZERS:
        raise ValueError(f"no tokenizer {name!r}{nearest(name, list(TOKENIZERS))} (all: {', '.join(TOKENIZERS)})")
    return None
