"""Training of a VQGAN on any images, whose distinct patches are too many to encode all of them in each step.

    1. The encoder is trained alone, on random patches: a linear layer reads the pixels of each patch back from its
       latent. Noise of the size of the later rounding to codes makes directions large that matter for the pixels.
    2. The codes are the k-means of the latents of all patches, each distinct patch once: all are used, and a plain
       background does not dominate them. Encoder and codes then stay as they are.
    3. The decoder is trained on whole images. Unlike the linear layer it sees the neighbours of a patch, from which it
       restores edges that a single code cannot hold.

Encoder and decoder together, as for the shapes (train_vqgan.py), would need one code per patch: with many patches per
code the latents of most patches met in a few codes.

Letters: n images, H W their size, B images per batch, P patches, N patches per image, s their size in pixels, E size of
a latent, V codes.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from emage.tokenizers.vqgan import VQGAN, VQGANConfig
from emage.training.vqgan.codebook import assign, fix_codes
from emage.training.vqgan.losses import learning_rate, pixel_loss, unit_latents
from emage.training.vqgan.patches import PatchSet, distinct_patches

PATCHES_PER_STEP = 512
NOISE = 0.03  # standard deviation of each of the E numbers of a latent; the latent has length 1
ENCODER_LR = 1e-2  # its peak; at 3e-3 it learned more slowly
KMEANS_ROUNDS = 10
PATCHES_AT_A_TIME = 4096  # that are encoded for k-means


@dataclass(frozen=True)
class Recipe:
    """Settings of one training.

    Attributes:
        encoder_steps: Optimizer steps of the encoder, with PATCHES_PER_STEP patches each.
        decoder_steps: Optimizer steps of the decoder.
        batch: Images per batch of the decoder, B.
        lr: Peak learning rate of the decoder.
        seed: Seed of weights and batches.
    """

    encoder_steps: int
    decoder_steps: int
    batch: int
    lr: float
    seed: int


def train_on(images: Tensor, config: VQGANConfig, name: str, recipe: Recipe) -> VQGAN:
    """Train a tokenizer on images (n, 3, H, W), uint8, of the size `config.resolution`; `config` is patchwise."""
    assert config.patchwise
    torch.manual_seed(recipe.seed)
    rng = torch.Generator().manual_seed(recipe.seed)
    data = distinct_patches(images, config.stride)
    model = VQGAN(config, name)
    codes = model.quantize.codes.requires_grad_(False)
    train_encoder(model, data, recipe, rng)
    ids = choose_codes(model, data, rng)  # (P,)
    train_decoder(model, images, codes[ids][data.indices], recipe, rng)
    return model.eval()


def train_encoder(model: VQGAN, data: PatchSet, recipe: Recipe, rng: torch.Generator) -> None:
    """Train the encoder so that patches can be read back from their noisy latents (step 1)."""
    reader = nn.Linear(model.config.code_dim, data.patches[0].numel())
    parameters = [*model.encoder.parameters(), *model.quant_conv.parameters(), *reader.parameters()]
    optimizer, schedule = _optimizer(parameters, ENCODER_LR, recipe.encoder_steps)
    for step in (bar := trange(recipe.encoder_steps, desc=f"encoder, {len(data.patches)} patches")):
        chosen = torch.randint(len(data.patches), (PATCHES_PER_STEP,), generator=rng)
        patches = data.patches[chosen].float() / 255  # (P, 3, s, s)
        latents = unit_latents(model, patches)  #       (P, E)
        read = reader(latents + NOISE * torch.randn(latents.shape, generator=rng))
        loss = (read - patches.flatten(1)).square().mean()
        _update(optimizer, schedule, loss)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")


@torch.no_grad()
def choose_codes(model: VQGAN, data: PatchSet, rng: torch.Generator) -> Tensor:
    """Set the codes to the k-means of the latents of all patches; return the ids (P,) of the patches (step 2)."""
    parts = data.patches.split(PATCHES_AT_A_TIME)
    latents = torch.cat([unit_latents(model, part.float() / 255) for part in parts])
    codes = model.quantize.codes
    first = torch.randperm(len(latents), generator=rng)[: len(codes)]
    codes.copy_(
        F.normalize(torch.randn(codes.shape, generator=rng), dim=1)
    )  # more codes than patches: some stay unused
    codes[: len(first)] = latents[first]
    fix_codes(codes, latents, rng, KMEANS_ROUNDS)
    return assign(latents, codes)


def train_decoder(model: VQGAN, images: Tensor, quantized: Tensor, recipe: Recipe, rng: torch.Generator) -> None:
    """Train the decoder on images (n, 3, H, W), uint8, and their codes (n, N, E) (step 3)."""
    parameters = [*model.decoder.parameters(), *model.post_quant_conv.parameters()]
    optimizer, schedule = _optimizer(parameters, recipe.lr, recipe.decoder_steps)
    for step in (bar := trange(recipe.decoder_steps, desc=f"decoder, {len(images)} images")):
        chosen = torch.randint(len(images), (recipe.batch,), generator=rng)
        grid = quantized[chosen].unflatten(1, model.grid).permute(0, 3, 1, 2)  # (B, E, h, w)
        loss = pixel_loss(model.pixels(grid), images[chosen].float() / 255)
        _update(optimizer, schedule, loss)
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}")


def _optimizer(parameters: list[nn.Parameter], lr: float, steps: int):
    optimizer = torch.optim.AdamW(parameters, lr, betas=(0.9, 0.99), weight_decay=0.01)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))


def _update(optimizer: torch.optim.Optimizer, schedule, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
    optimizer.step()
    schedule.step()
