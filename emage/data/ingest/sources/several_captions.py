"""Several captions of one image: each becomes a row, or one of them is chosen (source.several_captions)."""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from emage.config import SourceConfig
from emage.data.ingest.sources.base import NO_CAPTION
from emage.data.ingest.url_filter import hash_texts

pc: Any = pyarrow.compute  # made at import, so that type checkers do not see its functions


def make_rows(config: SourceConfig, batch: pa.RecordBatch, dropped: Counter[str]) -> pa.RecordBatch:
    """Return a batch with one caption per row. Images without any are counted in `dropped`.

    The choice among the captions of an image depends on its URL alone: it is the same in every run.
    """
    captions = batch["caption"]
    if not pa.types.is_list(captions.type):
        return batch
    image, text = pc.list_parent_indices(captions), captions.flatten()
    is_there = pc.fill_null(pc.not_equal(text, ""), False)
    image, text = image.filter(is_there).to_numpy(), text.filter(is_there)
    counts = np.bincount(image, minlength=len(batch))
    dropped[NO_CAPTION] += int((counts == 0).sum())
    if config.several_captions == "random":
        has_any = np.flatnonzero(counts)
        first = np.cumsum(counts) - counts
        chosen = hash_texts(batch["url"]) % np.maximum(counts, 1).astype(np.uint64)
        rows = (first + chosen.astype(np.int64))[has_any]
        image, text = image[rows], text.take(pa.array(rows))
    rows = batch.take(pa.array(image))
    return rows.set_column(rows.schema.get_field_index("caption"), "caption", text)
