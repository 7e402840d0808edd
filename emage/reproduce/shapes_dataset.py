"""The data set of scale=small: rendered shapes as a token table, held-out captions, and reference images.

tokens/         the token table, as ingest writes it
captions.txt    captions of held-out scenes, one per line
reference.tar   PNG images of other held-out scenes

Letters: n images, N tokens of an image.
"""

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from emage import tokenizers
from emage.data import schema, shapes
from emage.data.schema import TokenizerInfo
from emage.model import checkpoint
from emage.version import __version__

TOKENS, CAPTIONS, REFERENCE = "tokens", "captions.txt", "reference.tar"
ROWS_PER_GROUP, IMAGES_PER_BATCH = 1_024, 256


@dataclass(frozen=True)
class SmallWorld:
    """The size of the data set. The field names are part of fingerprints (emage.reproduce.experiments)."""

    pictures: int  # images in the token table
    captions: int
    references: int  # reference images
    output: str  # folder
    seed: int = 0


def make(world: SmallWorld) -> dict[str, int]:
    """Render and write the data set; return the number of images, captions and reference images."""
    folder = Path(world.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / TOKENS, shapes.sample_train_scenes(world.pictures, world.seed), world.seed)
    held_out = shapes.sample_held_out_scenes(world.captions, world.seed)
    (folder / CAPTIONS).write_text("".join(f"{scene.caption}\n" for scene in held_out))
    # Other scenes than those of the captions, from the same distribution.
    write_reference(folder / REFERENCE, shapes.sample_held_out_scenes(world.references, world.seed + 1), world.seed + 1)
    return {"pictures": world.pictures, "captions": world.captions, "references": world.references}


def write_table(
    folder: Path, scenes: Sequence[shapes.Scene], seed: int, *, files: int = 1, row_group: int = ROWS_PER_GROUP
) -> None:
    """Write a token table with one image per scene, encoded by the shipped tokenizer."""
    tokenizer = tokenizers.load(tokenizers.DEMO)
    pixels = torch.from_numpy(shapes.render_many(list(scenes), seed=seed)).permute(0, 3, 1, 2).float() / 255
    tokens = torch.cat([tokenizer.encode(part) for part in pixels.split(IMAGES_PER_BATCH)])
    table = token_rows(tokens.numpy(), [scene.caption for scene in scenes], checkpoint.describe(tokenizer))
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(table) // files)
    for i in range(files):
        part, file = table.slice(i * size, size), folder / f"{i:05d}.parquet"
        pq.write_table(part, file, row_group_size=row_group, write_page_checksum=True)


def token_rows(
    tokens: np.ndarray,
    captions: Sequence[str],
    tokenizer: TokenizerInfo,
    *,
    dataset: str = "shapes",
    side: int = shapes.IMAGE_SIZE,
    uids: Sequence[int] | None = None,
) -> pa.Table:
    """Return tokens (n, N) and n captions as rows of a token table, with empty URLs and, by default, uids from 0 on."""
    n = len(tokens)
    uids = range(n) if uids is None else uids
    columns = {
        "uid": list(uids),
        "dataset": [dataset] * n,
        "key": [f"{uid:09d}" for uid in uids],
        "url": [""] * n,
        "caption": list(captions),
        "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens.astype(np.uint16).ravel()), tokenizer.num_tokens),
        "width": [side] * n,
        "height": [side] * n,
        "sha256": [""] * n,
    }
    return pa.table(columns, schema=schema.token_schema(tokenizer, __version__))


def write_reference(path: Path, scenes: Sequence[shapes.Scene], seed: int) -> None:
    """Write a .tar with one PNG per scene."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as archive:
        for i, scene in enumerate(scenes):
            file = io.BytesIO()
            shapes.render(scene, rng).save(file, "PNG", compress_level=1)
            member = tarfile.TarInfo(f"{i:06d}.png")
            member.size = file.tell()
            file.seek(0)
            archive.addfile(member, file)
