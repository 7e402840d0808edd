"""Training of the demo's tokenizer, a VQGAN, on the images of the toy world (emage/data/shapes.py).

    python -m emage.training.train_vqgan --out vqgan-demo-f8-512.safetensors --grid reconstructions.png

Cost: about 5 minutes of one core. Expected: the checker confirms the caption for more than 99 % of the reconstructions,
of training scenes and of unseen objects, and the background is a single code.

It learns from training scenes only. There is no discriminator and no perceptual loss: the images have few flat colours,
and the loss over pixels is enough for sharp edges. What matters is the codebook:
    1. The encoder sees one patch at a time, so a data set of images is a short list of distinct patches. Every step
       encodes that whole list, each patch once: the background does not dominate the codebook.
    2. Latents and codes have unit length. The nearest code is then the same with or without normalizing the latent,
       and the saved quantizer is the plain one.
    3. A code follows the mean of its patches (EMA); codes without a patch move to the patches with the largest error.
    4. Latents of distinct patches repel each other. Without it about one patch in eight shared a code in the end.
    5. After the fraction `freeze` of the steps encoder and codebook are frozen, and only the decoder is trained.
    6. Half of each batch are mosaics, random patches at random positions. Without them the decoder guesses a patch from
       its neighbours: 100 % of the training scenes were correct, but 84 % of the unseen objects.

Letters: B images per batch, P distinct patches, N patches per image, s their size in pixels, E size of a
latent, V codes.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from tqdm import trange

from emage.data import shapes, shapes_checker
from emage.tokenizers import save
from emage.tokenizers.vqgan import VQGAN, VQGANConfig

NAME = "vqgan-demo-f8-512"
CONFIG = VQGANConfig(
    vocab_size=512,
    code_dim=16,
    z_channels=16,
    channels=16,
    channel_mult=(1, 1, 2, 4),
    num_res_blocks=1,
    num_groups=8,
    resolution=64,
    attention_resolutions=(),
    quantizer="nearest",
    patchwise=True,
)
STRIDE = CONFIG.stride
CODE_EMA_DECAY = 0.9
COMMITMENT_WEIGHT = 0.25
REPULSION_COSINE = 0.5  # between two latents, from which on they repel each other
SHAPE_WEIGHT = 4.0  # of the loss over pixels on or near a shape; 1 for the background


def train(steps: int, batch: int, lr: float, freeze: float, num_images: int, seed: int) -> VQGAN:
    """Train the tokenizer.

    Args:
        steps: Optimizer steps.
        batch: Images per batch, B.
        lr: Peak learning rate.
        freeze: Fraction of the steps after which only the decoder is trained.
        num_images: Number of rendered scenes that the patches are from.
        seed: Seed of scenes, weights and batches.
    """
    torch.manual_seed(seed)
    rng = torch.Generator().manual_seed(seed)
    images = to_pixels(shapes.render_many(shapes.sample_train_scenes(num_images, seed), seed))
    patches, indices = distinct_patches(images)  # (P, 3, s, s), (n, N)
    model = VQGAN(CONFIG, NAME)
    codes = model.quantize.codes.requires_grad_(False)
    codes.copy_(F.normalize(torch.randn(codes.shape, generator=rng), dim=1))
    optimizer = torch.optim.AdamW(model.parameters(), lr, betas=(0.9, 0.99), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    frozen_at = round(freeze * steps)
    for step in (bar := trange(steps, desc=f"{len(patches)} patches")):
        layout = indices[torch.randint(len(indices), (batch,), generator=rng)]  # (B, N)
        layout[::2] = torch.randint(len(patches), layout[::2].shape, generator=rng)
        if step < frozen_at:
            latents = unit_latents(model, patches)  # (P, E)
            ids = assign(latents, codes)  #           (P,)
            if step % 20 == 0:
                move_unused_codes(codes, latents.detach(), ids)
                ids = assign(latents, codes)
            move_codes(codes, latents.detach(), ids, CODE_EMA_DECAY)
        elif step == frozen_at:
            ids = fix_codes(codes, unit_latents(model, patches).detach(), rng)
            latents = codes[ids]
        quantized = latents + (codes[ids] - latents).detach()  # gradients pass straight through
        grid = quantized[layout].unflatten(1, model.grid).permute(0, 3, 1, 2)  # (B, E, h, w)
        loss = pixel_loss(model.pixels(grid), assemble(patches[layout], model.grid))
        loss = loss + COMMITMENT_WEIGHT * (latents - codes[ids]).square().sum(1).mean() + repulsion(latents)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{loss.item():.4f}", codes=len(ids.unique()))
    return model.eval()


def to_pixels(images: np.ndarray) -> Tensor:
    """Convert images (n, H, W, 3) uint8 to pixels (n, 3, H, W) in [0, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255


def distinct_patches(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct patches (P, 3, s, s) of images (n, 3, H, W), and the index of each image's patches (n, N)."""
    patches = F.unfold(images, STRIDE, stride=STRIDE).transpose(1, 2)  # (n, N, 3*s*s)
    keys = (patches * 255).round().to(torch.uint8).flatten(0, 1).numpy()
    _, first, inverse = np.unique(
        np.ascontiguousarray(keys).view(f"V{keys.shape[1]}").ravel(), return_index=True, return_inverse=True
    )
    distinct = patches.flatten(0, 1)[torch.from_numpy(first)].view(-1, 3, STRIDE, STRIDE)
    return distinct, torch.from_numpy(inverse).view(patches.shape[:2])


def assemble(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Join patches (B, N, 3, s, s) to images (B, 3, H, W)."""
    return patches.unflatten(1, grid).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def learning_rate(step: int, steps: int) -> float:
    """Return the fraction of the peak rate: 5 % warm-up, then a cosine to 0."""
    warmup = max(1, steps // 20)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def pixel_loss(reconstructed: Tensor, true: Tensor) -> Tensor:
    """Return L1 + L2, with SHAPE_WEIGHT within 3 px of a shape: most of an image is background."""
    near = F.max_pool2d((true < 1).any(1, keepdim=True).float(), 7, stride=1, padding=3)
    weight = 1 + (SHAPE_WEIGHT - 1) * near
    error = reconstructed - true
    return ((error.abs() + error.square()) * weight).sum() / (3 * weight.sum())


def unit_latents(model: VQGAN, patches: Tensor) -> Tensor:
    """Encode patches (P, 3, s, s) to latents (P, E) of unit length."""
    return F.normalize(model.latents(patches).flatten(1), dim=1)


def repulsion(latents: Tensor) -> Tensor:
    """Return the loss that keeps the latents (P, E) of distinct patches apart, summed over each one's neighbours."""
    cosine = latents @ latents.T - 2 * torch.eye(len(latents))  # none repels itself
    return F.relu(cosine - REPULSION_COSINE).square().sum(1).mean()


# --- Codebook: latents (P, E) and codes (V, E), both of unit length; ids (P,) -----------------------------------------


@torch.no_grad()
def assign(latents: Tensor, codes: Tensor) -> Tensor:
    """Return the id of the nearest code of each latent."""
    return (latents @ codes.T).argmax(1)


@torch.no_grad()
def move_codes(codes: Tensor, latents: Tensor, ids: Tensor, decay: float) -> None:
    """Move every used code towards the mean of its latents; with decay 0, onto it."""
    used, inverse = ids.unique(return_inverse=True)
    mean = torch.zeros(len(used), latents.shape[1]).index_add_(0, inverse, latents)
    codes[used] = F.normalize(decay * codes[used] + (1 - decay) * F.normalize(mean, dim=1), dim=1)


@torch.no_grad()
def move_unused_codes(codes: Tensor, latents: Tensor, ids: Tensor) -> None:
    """Move unused codes onto the latents that are farthest from their own code."""
    unused = torch.ones(len(codes), dtype=torch.bool).index_fill_(0, ids, False).nonzero().squeeze(1)
    error = (latents - codes[ids]).square().sum(1)
    worst = error.argsort(descending=True)[: len(unused)]
    codes[unused[: len(worst)]] = latents[worst]


@torch.no_grad()
def fix_codes(codes: Tensor, latents: Tensor, rng: torch.Generator) -> Tensor:
    """Move used codes onto the means of their latents and the others far away from all latents.

    Rounding on another machine then picks the same codes. Returns the ids.
    """
    ids = assign(latents, codes)
    move_codes(codes, latents, ids, decay=0.0)
    unused = torch.ones(len(codes), dtype=torch.bool).index_fill_(0, ids, False).nonzero().squeeze(1)
    candidates = F.normalize(torch.randn(20 * len(codes), codes.shape[1], generator=rng), dim=1)
    similarity = (candidates @ codes[ids.unique()].T).amax(1)
    codes[unused] = candidates[similarity.argsort()[: len(unused)]]
    return ids


# --- Report -----------------------------------------------------------------------------------------------------------


def correct_fraction(model: VQGAN, scenes: list[shapes.Scene], seed: int) -> float:
    """Return the fraction of reconstructions for which the checker confirms the caption."""
    reconstructed = reconstruct(model, shapes.render_many(scenes, seed))
    pairs = zip(reconstructed, scenes, strict=True)
    return float(np.mean([shapes_checker.check(Image.fromarray(a), s.caption).all_correct for a, s in pairs]))


def reconstruct(model: VQGAN, images: np.ndarray) -> np.ndarray:
    """Return images (n, H, W, 3) uint8 after encoding and decoding."""
    pixels = torch.cat([model.decode(model.encode(part)) for part in to_pixels(images).split(50)])
    return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def smallest_code_margin(model: VQGAN, images: np.ndarray) -> float:
    """Return the smallest difference in cosine to the latent between the nearest code and the next."""
    patches, _ = distinct_patches(to_pixels(images))
    best = (unit_latents(model, patches) @ model.quantize.codes.T).topk(2, dim=1).values
    return float((best[:, 0] - best[:, 1]).min())


def comparison(model: VQGAN, scenes: list[shapes.Scene], seed: int) -> Image.Image:
    """Return rows of rendered scenes, each above its reconstructions, three times their size."""
    images = shapes.render_many(scenes, seed)
    tiles = np.stack([images, reconstruct(model, images)])
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, 1), (0, 1), (0, 0)), constant_values=200)  # grey lines
    rows = tiles.reshape(2, -1, 8, 65, 65, 3)  # (2, r, 8, y, x, 3)
    image_grid = Image.fromarray(rows.transpose(1, 0, 3, 2, 4, 5).reshape(-1, 8 * 65, 3))
    return image_grid.resize((3 * image_grid.width, 3 * image_grid.height), Image.Resampling.NEAREST)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"{NAME}.safetensors"))
    parser.add_argument("--grid", type=Path, help="PNG: rendered scenes above their reconstructions")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument(
        "--freeze", type=float, default=0.15, help="fraction of the steps after which only the decoder is trained"
    )
    parser.add_argument("--pictures", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = train(args.steps, args.batch, args.lr, args.freeze, args.pictures, args.seed)
    print(f"{args.out}  sha256 {save(model, args.out)}")
    with torch.no_grad():
        fresh = args.seed + 1000
        for kind, sample in (("train", shapes.sample_train_scenes), ("unseen", shapes.sample_unseen_kind_scenes)):
            print(f"correct, {kind} scenes: {correct_fraction(model, sample(1000, fresh), fresh):.1%} of 1000")
        images = shapes.render_many(shapes.sample_scenes(4000, fresh), fresh)
        print(f"smallest margin of a code: {smallest_code_margin(model, images):.3f}")
        if args.grid:
            scenes = shapes.sample_train_scenes(24, fresh) + shapes.sample_unseen_kind_scenes(16, fresh)
            comparison(model, scenes, fresh).save(args.grid)


if __name__ == "__main__":
    main()
