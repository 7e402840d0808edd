"""The six methods on a second world with longer grids: the Noto emoji, 128 px, 256 tokens, with their CLDR short names.

    python benchmarks/emoji.py                                    # everything: about 6 hours on one core (estimate)
    python benchmarks/emoji.py --methods iterative1 iterative2    # some methods; start several such processes at once
    python benchmarks/emoji.py --report                           # results and figures of what is finished

A tenth of the captions is held out, by seed. A tokenizer is trained on the other emoji (12 minutes of one core; with
seed 0 a PSNR of 22.8 dB on held-out emoji, all 1,024 codes in use), then each method on their tokens, with the model
of the preset demo, one seed and equally many steps. Each method generates an image for every held-out caption in 4, 8,
16 and 32 decoding steps, in both orders where it has them. Reported are the Frechet distance of the tokenizer's
features between these images and the real ones of the captions, how often the real image of the caption is one of the
ten nearest to the generated one, and the FLOP of training and of generating.

It can be stopped at any time: the same command continues. A method that another process works on is left to it.
Writes results/emoji.json, emoji.png (quality against decoding steps), emoji-grid.png (the same captions and seeds for
all methods) and, in the working folder, models, images and reconstructions of the tokenizer.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import emoji_data
import emoji_figures
import emoji_measure
import emoji_train
import results_file
import torch
from emoji_data import Emoji
from filelock import FileLock, Timeout
from rich.console import Console
from rich.table import Table

import emage
from emage.evaluation.networks.features import TokenizerFeatures
from emage.methods import METHODS
from emage.tokenizers.vqgan import VQGAN
from emage.training.vqgan.sampled import Recipe
from emage.utils import manifest, provenance
from emage.utils.errors import InputError, exit_on_bad_input

RESULTS = Path(__file__).parent / "results"


def main(argv: list[str]) -> None:
    """Run what is not finished, and report; exit with 2 and one line on bad input."""
    args = parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    with exit_on_bad_input():
        run(args)


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--methods", nargs="*", choices=list(METHODS), default=list(METHODS), help="default: all six")
    made.add_argument("--report", action="store_true", help="train nothing")
    made.add_argument("--data", type=Path, default=emoji_data.default_file(), help=emoji_data.WHERE)
    made.add_argument("--work", type=Path, default=Path("runs/emoji"), help="folder for models and images")
    made.add_argument("--tokenizer", type=Path, help="weights of an emoji tokenizer; default: one is trained")
    made.add_argument("--tokenizer-steps", type=int, nargs=2, default=[2_500, 900], help="of encoder and decoder")
    made.add_argument("--steps", type=int, default=3_000, help="of each training")
    made.add_argument("--batch", type=int, default=32, help="images per step")
    made.add_argument("--passes", type=int, nargs="+", default=[4, 8, 16, 32], help="numbers of decoding steps")
    made.add_argument("--held-out", type=float, default=0.1, help="fraction of the captions that is held out")
    made.add_argument("--limit", type=int, help="emoji at most; default: all")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--threads", type=int, default=1)
    return made


def run(args: argparse.Namespace) -> None:
    """Prepare what all methods need, then train and measure the wanted ones."""
    check(args)
    emoji = emoji_data.read(args.data, args.limit)
    train, held_out = emoji_data.split(emoji, args.held_out, args.seed)
    if len(held_out.captions) < 2 or len(train.captions) < args.batch:
        raise InputError(f"{len(emoji.captions)} emoji, {len(held_out.captions)} held out: too few; raise --limit")
    keys = ("steps", "batch", "held_out", "limit", "seed", "passes", "tokenizer_steps")
    settings = {key: getattr(args, key) for key in keys} | {"data": manifest.sha256(args.data)}
    manifest.claim_output(args.work, "benchmarks/emoji.py", settings)
    with FileLock(args.work / ".prepare.lock"):
        tokenizer, about = prepare(args, train, held_out)
    extractor = TokenizerFeatures(tokenizer)
    real = emoji_measure.Real(held_out.captions, emoji_measure.features(extractor, held_out.images))
    others = emoji_data.sample(train, len(held_out.captions), args.seed)
    about["bounds"] = emoji_measure.bounds(extractor, tokenizer, held_out.images, others.images, real)
    about |= {"settings": settings, "captions": {"train": len(train.captions), "held_out": len(held_out.captions)}}
    for method in () if args.report else args.methods:
        folder = args.work / method
        folder.mkdir(exist_ok=True)
        try:
            with FileLock(args.work / f".{method}.lock", timeout=0):
                config = emoji_train.settings_of(method, args.work / "tokens", args.steps, args.batch, args.seed)
                emoji_train.train(folder, config, tokenizer)
                pipe = emoji_train.pipe(folder)
                emoji_measure.measure(folder, pipe, real, extractor, args.passes, args.batch)
        except Timeout:
            print(f"{method}: another process works on it", flush=True)
        report(args, about, held_out)
    show(report(args, about, held_out))


def check(args: argparse.Namespace) -> None:
    """Raise InputError for numbers that cannot be used."""
    for name in ("steps", "batch", "limit", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be at least 1")
    if min(args.tokenizer_steps) < 1:
        raise InputError(f"--tokenizer-steps {args.tokenizer_steps}: must be at least 1")
    if not 0 < args.held_out < 1:
        raise InputError(f"--held-out {args.held_out}: must be between 0 and 1")
    if not all(1 <= steps <= 256 for steps in args.passes):
        raise InputError(f"--passes {args.passes}: must be from 1 to the 256 tokens of an image")
    if args.tokenizer and not args.tokenizer.is_file():
        raise InputError(f"--tokenizer {args.tokenizer}: no such file")


def prepare(args: argparse.Namespace, train: Emoji, held_out: Emoji) -> tuple[VQGAN, dict[str, Any]]:
    """Make tokenizer and token table unless they are there; return the tokenizer and what is known of it."""
    recipe = Recipe(*args.tokenizer_steps, batch=8, lr=3e-3, seed=args.seed)
    tokenizer = emoji_data.make_tokenizer(args.work, train, recipe, args.tokenizer)
    about = {"tokenizer": emoji_data.describe_tokenizer(args.work, tokenizer, train, held_out)}
    emoji_data.make_table(args.work / "tokens", train, tokenizer)
    return tokenizer, about


def report(args: argparse.Namespace, about: dict[str, Any], held_out: Emoji) -> dict[str, Any]:
    """Write results and figures of all methods that are finished, by this process or another."""
    with FileLock(args.work / ".report.lock"):
        found: dict[str, Any] = {}
        for method in METHODS:
            training = manifest.read_json(args.work / method / "training.json")
            generation = manifest.read_json(args.work / method / "generation.json")
            if training and generation:
                found[method] = training | {"generation": generation}
        versions = {"emage": emage.__version__, "torch": torch.__version__, "commit": provenance.commit()}
        results = {**about, **versions, "threads": args.threads, "cpus": os.cpu_count(), "methods": found}
        results_file.write(RESULTS / "emoji.json", results)
        if found:
            emoji_figures.chart(RESULTS / "emoji.png", results)
            emoji_figures.grid(RESULTS / "emoji-grid.png", results, held_out, args.work)
    return results


def show(results: dict[str, Any]) -> None:
    """Print a row per method, order and number of decoding steps."""
    table = Table(
        "method", "order", "steps", "Frechet distance", "own in nearest 10", "GFLOP an image", "PFLOP, training"
    )
    for method, known in results["methods"].items():
        for row in known["generation"]:
            table.add_row(
                method,
                row["order"] or "",
                str(row["steps"]),
                f"{row['frechet']:.5f}",
                f"{row['nearest_10']:.1%}",
                f"{row['flops_per_image'] / 1e9:.2f}",
                f"{known['training_flops'] / 1e15:.3f}",
            )
    console = Console(width=120)
    console.print(table)
    tokenizer, bounds = results["tokenizer"], results["bounds"]
    console.print(
        f"tokenizer: PSNR {tokenizer['psnr_held_out_db']:.2f} dB on held-out emoji, {tokenizer['codes_in_use']} of "
        f"{tokenizer['codes']} codes; Frechet distance of its reconstructions "
        f"{bounds['reconstructions']['frechet']:.5f}, of training emoji {bounds['training_images']['frechet']:.5f}"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
