"""What the reference implementations of the tokenizers say: recorded in data/, or compared at the published size.

    uv pip install --no-deps --target reference DALL-E==0.1 taming-transformers-rom1504==0.0.6 attrs einops requests
    PYTHONPATH=.:reference python tests/parity/record.py           # writes data/
    PYTHONPATH=.:reference python tests/parity/record.py --full    # a minute a tokenizer, about 4 GB

The two packages are of 2021 and ask for pytorch-lightning, mypy and blobfile, none of which their networks import:
that is why they are no development dependencies and their answers are recorded. latent-diffusion has no package; its
first stage is taming's encoder and decoder with taming's VectorQuantizer2.
"""

import argparse
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import attr
import dall_e
import safetensors.torch
import torch
from formula import SIZE, TINY, fill, image, thinned, tiny
from taming.modules.diffusionmodules import model as taming
from taming.modules.vqvae import quantize
from torch import Tensor, nn

from emage.tokenizers import TOKENIZERS, Published
from emage.tokenizers.dvae import DVAE, DVAEConfig
from emage.tokenizers.vqgan import VQGAN, VQGANConfig

DATA = Path(__file__).with_name("data")
Codec = tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]  # pixels -> scores (B, V, h, w); ids -> pixels


def openai(config: DVAEConfig, weights: dict[str, Tensor]) -> tuple[nn.ModuleDict, Codec]:
    attr.set_run_validators(False)  # they want n_hid >= 64
    encoder = dall_e.Encoder(n_hid=config.n_hid, vocab_size=config.vocab_size)
    decoder = dall_e.Decoder(n_hid=config.n_hid, n_init=config.n_init, vocab_size=config.vocab_size)
    parts = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    parts.load_state_dict(weights)

    def decode(ids: Tensor) -> Tensor:  # as the package's notebook does it
        one_hot = nn.functional.one_hot(ids, config.vocab_size).permute(0, 3, 1, 2).float()
        return dall_e.unmap_pixels(torch.sigmoid(decoder(one_hot).float()[:, :3]))

    return parts, (lambda pixels: encoder(dall_e.map_pixels(pixels)), decode)


def compvis(config: VQGANConfig, weights: dict[str, Tensor]) -> tuple[nn.ModuleDict, Codec]:
    shape = {
        "ch": config.channels,
        "out_ch": 3,
        "ch_mult": config.channel_mult,
        "num_res_blocks": config.num_res_blocks,
        "attn_resolutions": config.attention_resolutions,
        "in_channels": 3,
        "resolution": config.resolution,
        "z_channels": config.z_channels,
        "double_z": False,
    }
    if config.quantizer == "gumbel":
        quantizer = quantize.GumbelQuantize(config.z_channels, config.code_dim, config.vocab_size)
    else:
        kind = quantize.VectorQuantizer2 if config.code_dim == 4 else quantize.VectorQuantizer
        quantizer = kind(config.vocab_size, config.code_dim, beta=0.25)
    encoder, decoder = taming.Encoder(**shape), taming.Decoder(**shape)
    before = nn.Conv2d(config.z_channels, config.code_dim, 1)
    after = nn.Conv2d(config.code_dim, config.z_channels, 1)
    parts = {"encoder": encoder, "decoder": decoder, "quantize": quantizer, "quant_conv": before}
    parts = nn.ModuleDict(parts | {"post_quant_conv": after})
    parts.load_state_dict(weights)

    def scores(pixels: Tensor) -> Tensor:  # taming's own ids are those of the largest score
        z = before(encoder(2 * pixels - 1))
        if config.quantizer == "gumbel":  # its forward draws at random, even in eval mode
            return quantizer.proj(z)
        ids = quantizer(z)[2][2].view(len(z), *z.shape[2:])
        return nn.functional.one_hot(ids, config.vocab_size).permute(0, 3, 1, 2).float()

    def decode(ids: Tensor) -> Tensor:
        codes = quantizer.get_codebook_entry(ids.flatten(), (*ids.shape, config.code_dim))
        return ((decoder(after(codes)) + 1) / 2).clamp(0, 1)

    return parts, (scores, decode)


@torch.no_grad()
def answer(codec: Codec, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """ids (B, N) and what they decode to."""
    scores, decode = codec
    ids = scores(pixels).argmax(1)
    return ids.flatten(1), decode(ids)


def record(name: str) -> None:
    weights = fill(tiny(name).state_dict())
    parts, codec = (openai if name == "dvae" else compvis)(TINY[name], weights)
    ids, pixels = answer(codec, image(*SIZE))
    answers = {"ids": ids.contiguous(), "pixels": thinned(pixels).contiguous()}
    (DATA / f"{name}.safetensors").write_bytes(safetensors.torch.save(answers))
    print(f"{name}: {len(ids.unique())} codes, pixels {pixels.min():.3f}..{pixels.max():.3f}")
    if name == "dvae":
        for form, is_zip in (("zip", True), ("legacy", False)):
            archive(parts, DATA / f"dvae-{form}.tar.xz", is_zip)


def archive(parts: nn.ModuleDict, path: Path, is_zip: bool) -> None:
    """encoder.pkl and decoder.pkl as OpenAI wrote them: whole modules, in torch's form of today or before 1.6."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(path, "w:xz") as tar:
        for part, module in parts.items():
            file = Path(folder) / f"{part}.pkl"
            torch.save(module, file, _use_new_zipfile_serialization=is_zip)
            tar.add(file, file.name)


def compare(name: str, published: Published) -> None:
    """The published size, the formula's weights, one image."""
    config = published.config
    ours = DVAE(config, name) if isinstance(config, DVAEConfig) else VQGAN(config, name)
    ours.load_state_dict(fill(ours.state_dict()))
    _, codec = (openai if name == "dvae" else compvis)(config, ours.state_dict())
    pixels = image(256, 256)
    ids, drawn = answer(codec, pixels)
    mine = ours.eval().encode(pixels)
    difference = (ours.decode(ids) - drawn).abs().max()
    print(f"{name}: {(mine == ids).sum()} of {ids.numel()} ids equal ({len(ids.unique())} codes in use), ", end="")
    print(f"largest difference of a pixel {difference:.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="compare at the published size")
    warnings.simplefilter("ignore")  # the legacy form is deprecated
    if parser.parse_args().full:
        for name, published in TOKENIZERS.items():
            if isinstance(published, Published):
                compare(name, published)
    else:
        for name in TINY:
            record(name)


if __name__ == "__main__":
    main()
