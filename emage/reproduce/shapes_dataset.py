"""What scale=small works on: drawn images as a token table, held-out captions, reference images.

tokens/         the token table, as ingest writes it
captions.txt    of held-out scenes, one a line
reference.tar   other images of held-out scenes, PNG

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
ROW_GROUP, ENCODED_AT_ONCE = 1_024, 256


@dataclass(frozen=True)
class SmallWorld:
    """How much of it there is."""

    pictures: int  # in the token table
    captions: int
    references: int
    output: str  # folder
    seed: int = 0


def make(world: SmallWorld) -> dict[str, int]:
    """Draws and writes all of it; returns how much."""
    folder = Path(world.output)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / TOKENS, shapes.sample_train_scenes(world.pictures, world.seed), world.seed)
    held_out = shapes.sample_held_out_scenes(world.captions, world.seed)
    (folder / CAPTIONS).write_text("".join(f"{scene.caption}\n" for scene in held_out))
    # Other scenes and other images than those of the captions, of the same distribution.
    write_reference(folder / REFERENCE, shapes.sample_held_out_scenes(world.references, world.seed + 1), world.seed + 1)
    return {"pictures": world.pictures, "captions": world.captions, "references": world.references}


def write_table(
    folder: Path, scenes: Sequence[shapes.Scene], seed: int, *, files: int = 1, row_group: int = ROW_GROUP
) -> None:
    """A token table of one image a scene, made with the tokenizer that is shipped."""
    tokenizer = tokenizers.load(tokenizers.DEMO)
    pixels = torch.from_numpy(shapes.render_many(list(scenes), seed=seed)).permute(0, 3, 1, 2).float() / 255
    tokens = torch.cat([tokenizer.encode(part) for part in pixels.split(ENCODED_AT_ONCE)])
    table = token_rows(tokens.numpy(), [scene.caption for scene in scenes], checkpoint.describe(tokenizer))
    folder.mkdir(parents=True, exist_ok=True)
    size = -(-len(table) // files)
    for i in range(files):
        pq.write_table(table.slice(i * size, size), folder / f"{i:05d}.parquet", row_group_size=row_group)


def token_rows(tokens: np.ndarray, captions: Sequence[str], tokenizer: TokenizerInfo, first: int = 0) -> pa.Table:
    """(n, N) tokens and n captions as rows of a token table, from uid `first` on. They came from no URL."""
    n = len(tokens)
    columns = {
        "uid": np.arange(first, first + n),
        "dataset": ["shapes"] * n,
        "key": [f"{i:09d}" for i in range(first, first + n)],
        "url": [""] * n,
        "caption": list(captions),
        "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens.astype(np.uint16).ravel()), tokenizer.num_tokens),
        "width": [shapes.IMAGE_SIZE] * n,
        "height": [shapes.IMAGE_SIZE] * n,
        "sha256": [""] * n,
    }
    return pa.table(columns, schema=schema.token_table(tokenizer, __version__))


def write_reference(path: Path, scenes: Sequence[shapes.Scene], seed: int) -> None:
    """One PNG a scene, in a .tar."""
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as archive:
        for i, scene in enumerate(scenes):
            file = io.BytesIO()
            shapes.render(scene, rng).save(file, "PNG", compress_level=1)
            member = tarfile.TarInfo(f"{i:06d}.png")
            member.size = file.tell()
            file.seek(0)
            archive.addfile(member, file)
