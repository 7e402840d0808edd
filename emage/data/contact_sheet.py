"""The contact sheet of a token table: a grid of random images, decoded from their tokens, with their captions."""

import math
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from emage.config import InspectionConfig, check_arguments
from emage.data import schema, token_samples
from emage.data.token_statistics import PROGRESS_BAR
from emage.utils import image_grid
from emage.utils.errors import InputError

# torch takes seconds to import: it is imported where it is used.

MAX_ROW_GROUPS = 8  # from which the images come
COLUMNS = 8  # of the grid
DECODE_BATCH = 4  # images decoded at once


def make_contact_sheet(path: str, *, num_images: int = 32, weights: str | None = None, seed: int = 0) -> Image.Image:
    """Return random images of a token table in a grid, with their captions. Decoding runs on the CPU.

    Args:
        path: The table's folder.
        num_images: Number of images; fewer if the table has fewer rows.
        weights: File of the tokenizer's weights; None: the shipped or published ones.
        seed: Decides which images.

    Raises:
        InputError: The tokenizer's weights are not available, or are not those that made the table.
    """
    import torch

    check_arguments(InspectionConfig, pictures=num_images, seed=seed)
    names, info = schema.open_token_table(path)
    tokenizer = _load_tokenizer(info, weights)
    files = [token_samples.read_footer(name, info) for name in names]
    images, captions = [], []
    per_group = math.ceil(num_images / min(MAX_ROW_GROUPS, sum(len(file.group_rows) for file in files)))
    with tqdm(total=num_images, desc="images", **PROGRESS_BAR) as bar:
        for table in token_samples.sample_rows(files, num_images, seed, max_per_group=per_group):
            captions += table["caption"].to_pylist()
            for ids in torch.from_numpy(token_samples.token_array(table).astype(np.int64)).split(DECODE_BATCH):
                with torch.no_grad():
                    pixels = tokenizer.decode(ids, info.grid).permute(0, 2, 3, 1)  # (b, H, W, 3)
                images += [Image.fromarray(image) for image in (pixels * 255).round().byte().numpy()]
                bar.update(len(ids))
    return image_grid.make_grid(images, captions, COLUMNS)


def _load_tokenizer(info: schema.TokenizerInfo, weights: str | None) -> Any:
    from emage import tokenizers

    try:
        tokenizer = tokenizers.load(info.name, weights)
    except (ValueError, OSError) as error:
        raise InputError(f"the contact sheet needs the weights of {info.name}: {error}; pass weights=FILE") from None
    if tokenizer.sha256 != info.sha256:
        raise InputError(
            f"no contact sheet: the table was made by weights of sha256 {info.sha256}, these have {tokenizer.sha256}; "
            "pass weights=FILE"
        )
    return tokenizer
