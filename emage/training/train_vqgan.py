"""Training of a tokenizer, a VQGAN: of the demo's, on the images of the toy world (emage/data/shapes.py), or on any.

    python -m emage.training.train_vqgan --out vqgan-demo-f8-512.safetensors --grid reconstructions.png
    python -m emage.training.train_vqgan --images FOLDER --side 128 --codes 1024 --name mine --out mine.safetensors

Cost of the demo's: about 5 minutes of one core. Expected: the checker confirms the caption for more than 99 % of the
reconstructions, of training scenes and of unseen objects, and the background is a single code. emage/training/vqgan/
sampled.py explains the training on `--images`; the rest of this text is about the demo's.

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
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import trange

from emage.data import shapes
from emage.tokenizers import save
from emage.tokenizers.vqgan import VQGAN, VQGANConfig
from emage.training.vqgan.codebook import assign, fix_codes, move_codes, move_unused_codes
from emage.training.vqgan.losses import learning_rate, pixel_loss, repulsion, unit_latents
from emage.training.vqgan.patches import assemble, distinct_patches, read_images, to_pixels
from emage.training.vqgan.report import codes_in_use, comparison, correct_fraction, psnr, smallest_code_margin
from emage.training.vqgan.sampled import Recipe, train_on
from emage.utils.errors import InputError, exit_on_bad_input

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
CODE_EMA_DECAY = 0.9
COMMITMENT_WEIGHT = 0.25


def train(steps: int, batch: int, lr: float, freeze: float, num_images: int, seed: int) -> VQGAN:
    """Train the demo's tokenizer.

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


def main() -> None:
    """Train by the command line; print how well the tokenizer reconstructs images that it has not seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(f"{NAME}.safetensors"))
    parser.add_argument("--grid", type=Path, help="PNG: images above their reconstructions")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--pictures", type=int, help="images at most (shapes: 4000, --images: all)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    of_shapes = parser.add_argument_group("shapes, without --images")
    of_shapes.add_argument(
        "--freeze", type=float, default=0.15, help="fraction of the steps after which only the decoder is trained"
    )
    of_images = parser.add_argument_group("any images")
    of_images.add_argument("--images", help="folder, .tar or .parquet; a tenth is held out; --steps are the decoder's")
    of_images.add_argument("--encoder-steps", type=int, default=2500)
    of_images.add_argument("--side", type=int, default=128, help="px; images are resized and cropped to squares")
    of_images.add_argument("--codes", type=int, default=1024, help="vocabulary")
    of_images.add_argument("--name", default="vqgan-f8", help="name of the tokenizer")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with exit_on_bad_input():
        (train_shapes if args.images is None else train_images)(args)


def train_shapes(args: argparse.Namespace) -> None:
    """Train the demo's tokenizer, save it, and print what the checker says of newly rendered scenes."""
    model = train(args.steps, args.batch, args.lr, args.freeze, args.pictures or 4000, args.seed)
    print(f"{args.out}  sha256 {save(model, args.out)}")
    with torch.no_grad():
        fresh = args.seed + 1000
        for kind, sample in (("train", shapes.sample_train_scenes), ("unseen", shapes.sample_unseen_kind_scenes)):
            print(f"correct, {kind} scenes: {correct_fraction(model, sample(1000, fresh), fresh):.1%} of 1000")
        images = shapes.render_many(shapes.sample_scenes(4000, fresh), fresh)
        print(f"smallest margin of a code: {smallest_code_margin(model, to_pixels(images)):.3f}")
        if args.grid:
            scenes = shapes.sample_train_scenes(24, fresh) + shapes.sample_unseen_kind_scenes(16, fresh)
            comparison(model, to_pixels(shapes.render_many(scenes, fresh)), enlarge=3).save(args.grid)


def train_images(args: argparse.Namespace) -> None:
    """Train a tokenizer on nine tenths of the images, save it, and print PSNR and codes in use."""
    if args.side < CONFIG.stride or args.side % CONFIG.stride or args.codes < 2:
        raise InputError(f"--side {args.side} --codes {args.codes}: a multiple of {CONFIG.stride}, and 2 codes or more")
    images = read_images(args.images, args.side, args.pictures)
    if len(images) < 10:
        raise InputError(f"{args.images}: {len(images)} usable images; a tokenizer needs ten or more")
    images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(args.seed))]
    held_out, seen = images[: len(images) // 10], images[len(images) // 10 :]
    config = replace(CONFIG, vocab_size=args.codes, resolution=args.side)
    model = train_on(seen, config, args.name, Recipe(args.encoder_steps, args.steps, args.batch, args.lr, args.seed))
    print(f"{args.out}  sha256 {save(model, args.out)}")
    with torch.no_grad():
        print(f"PSNR of {len(held_out)} held-out images: {psnr(model, held_out):.2f} dB")
        print(f"codes in use: {codes_in_use(model, seen)} of {args.codes}")
        if args.grid:
            comparison(model, held_out[:40].float() / 255, enlarge=1).save(args.grid)


if __name__ == "__main__":
    main()
