"""Part of benchmarks/emoji.py: the emoji as images and captions, their tokenizer, and their token table.

Letters: n images, H W their size, N tokens of an image.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from emage import tokenizers
from emage.model import checkpoint
from emage.reproduce.shapes_dataset import token_rows
from emage.tokenizers.vqgan import VQGAN
from emage.training.train_vqgan import CONFIG
from emage.training.vqgan import patches, report
from emage.training.vqgan.sampled import Recipe, train_on
from emage.utils import manifest
from emage.utils.errors import InputError

FILE = "noto_emoji_128.parquet"
WHERE = (
    f"--data FILE: the Noto emoji (github.com/googlefonts/noto-emoji, SIL OFL 1.1) as a parquet file with the columns "
    f"image (PNG, 128 px) and caption (CLDR short name); $EMAGE_DATA/{FILE} is read if it exists"
)
SIDE, CODES = 128, 1024
NAME = f"vqgan-emoji-f8-{CODES}"
ROWS_PER_GROUP = 1_024
SHOWN = 40  # held-out images in the picture of reconstructions


class Emoji(NamedTuple):
    """Images (n, 3, H, W), uint8, over white, and their captions."""

    images: Tensor
    captions: list[str]

    def take(self, rows: Sequence[int]) -> "Emoji":
        """Return some of the rows."""
        return Emoji(self.images[list(rows)], [self.captions[row] for row in rows])


def default_file() -> Path | None:
    """Return the file in $EMAGE_DATA, or in ../shared/data beside the repository; None if neither exists."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    file = Path(os.environ.get("EMAGE_DATA") or beside) / FILE
    return file if file.is_file() else None


def read(file: Path | None, limit: int | None) -> Emoji:
    """Read the emoji, the first `limit` or all. Raise InputError if there is no such file."""
    if file is None or not file.is_file():
        raise InputError(f"{file or FILE}: no such file; {WHERE}")
    if "caption" not in pq.read_schema(file).names:
        raise InputError(f"{file}: no column 'caption'; {WHERE}")
    captions = pq.read_table(file, columns=["caption"])["caption"].to_pylist()[:limit]
    images = patches.read_images(str(file), SIDE, limit)
    if len(images) != len(captions):
        raise InputError(f"{file}: some images cannot be decoded")
    return Emoji(images, captions)


def split(emoji: Emoji, share: float, seed: int) -> tuple[Emoji, Emoji]:
    """Return the emoji for training, and a share of them, by seed, that is held out; a caption is in one of both."""
    captions = sorted(set(emoji.captions))
    chosen = np.random.default_rng(seed).permutation(len(captions))[: round(share * len(captions))]
    held_out = {captions[i] for i in chosen}
    rows = [caption in held_out for caption in emoji.captions]
    return emoji.take(np.flatnonzero(~np.array(rows)).tolist()), emoji.take(np.flatnonzero(rows).tolist())


def sample(emoji: Emoji, count: int, seed: int) -> Emoji:
    """Return random rows: those of the file are sorted by subject."""
    return emoji.take(np.random.default_rng(seed).permutation(len(emoji.captions))[:count].tolist())


def make_tokenizer(folder: Path, train: Emoji, recipe: Recipe, given: Path | None) -> VQGAN:
    """Return the tokenizer in `folder`: on the first call a `given` one, or one that is trained on the emoji."""
    file = folder / "tokenizer.safetensors"
    if not file.exists():
        if given:
            model = tokenizers.load_file(given)
        else:
            model = train_on(train.images, replace(CONFIG, vocab_size=CODES, resolution=SIDE), NAME, recipe)
        tokenizers.save(model, file)
    model = tokenizers.load_file(file)
    assert isinstance(model, VQGAN)
    return model


def describe_tokenizer(folder: Path, model: VQGAN, train: Emoji, held_out: Emoji) -> dict[str, Any]:
    """Return how well the tokenizer reconstructs; write a picture of held-out emoji above their reconstructions."""
    file = folder / "tokenizer.json"
    if (record := manifest.read_json(file)) is not None:
        return record
    with torch.no_grad():
        sheet = report.comparison(model, held_out.images[:SHOWN].float() / 255, enlarge=1)
        record = {
            "sha256": model.sha256,
            "psnr_held_out_db": report.psnr(model, held_out.images),
            "psnr_train_db": report.psnr(model, sample(train, len(held_out.images), seed=0).images),
            "codes": model.vocab_size,
            "codes_in_use": report.codes_in_use(model, train.images),
        }
    sheet.save(folder / "reconstructions.png")
    manifest.write_json(file, record)
    return record


def make_table(folder: Path, train: Emoji, tokenizer: VQGAN) -> None:
    """Write the token table of the training emoji, in random order, unless it is there."""
    if (folder / manifest.NAME).exists():
        return
    order = np.random.default_rng(0).permutation(len(train.captions)).tolist()
    train, info = train.take(order), checkpoint.describe(tokenizer)
    tokens = torch.cat([tokenizer.encode(part.float() / 255) for part in train.images.split(50)])
    table = token_rows(tokens.numpy(), train.captions, info, dataset="emoji", side=SIDE, uids=order)
    with manifest.new_folder(folder) as fresh:
        pq.write_table(table, fresh / "00000.parquet", row_group_size=ROWS_PER_GROUP)
        manifest.write_json(fresh / manifest.NAME, {"rows": len(table)})
