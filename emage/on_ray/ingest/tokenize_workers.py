"""The workers of the tokenizing data set: the reader (caption rules, decoding) and the encoder (the tokenizer).

Both work on batches: a batch holds consecutive images of one shard, so its tokens do not depend on how Ray splits its
blocks, on timing or on restarts. tokenize_dataset.py connects the two with Ray Data.

    b  images of a batch        n  tokens of an image
"""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from emage.config import TokenizeConfig
from emage.data import schema
from emage.data.images import decode_image
from emage.data.ingest.captions import caption_cleaning, caption_rules
from emage.on_ray.ingest.download import image_shards

if TYPE_CHECKING:  # torch takes seconds to import, and the tasks that decode do not need it
    import torch

UNKNOWN_COUNT = -1  # num_batches of every row except a shard's last one

# A row of the data set: one batch of one shard. `metadata` is an Arrow stream of a table of METADATA_SCHEMA; `data` is
# raw bytes, uint8 pixels (b, size, size, 3) before the encoder and uint16 tokens (b, n) after it. A shard's last row is
# no batch: it has the shard's counts, the dropped rows (schema.DROPPED_SCHEMA) as `metadata`, and no data.
BATCH_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("batch", pa.int64()),
        ("num_batches", pa.int64()),
        ("counts", pa.string()),
        ("metadata", pa.binary()),
        ("data", pa.binary()),
    ]
)
METADATA_SCHEMA = pa.schema([item for item in schema.IMAGE_SCHEMA if item.name != "image"])


class Reader:
    """Reads image shards by number into rows of BATCH_SCHEMA, with decoded pixels. Stateless: it runs in Ray tasks."""

    def __init__(self, shards: Path, config: TokenizeConfig, image_size: int):
        self.shards, self.config, self.image_size = shards, config, image_size
        self.rules = caption_rules.rules_for(config.languages) if config.caption_rules else {}

    def __call__(self, numbers: pa.Table) -> Iterator[pa.Table]:
        for number in numbers["shard"].to_pylist():
            yield from self._read_shard(number)

    def _read_shard(self, number: int) -> Iterator[pa.Table]:
        counts: dict[str, Any] = {"rows": 0, "rejected": Counter(), "failed": Counter()}
        dropped: list[dict[str, Any]] = []
        waiting: list[tuple[dict[str, Any], np.ndarray]] = []
        index = 0
        for image in image_shards.read_rows(self.shards, number):
            counts["rows"] += 1
            result = self._decode_or_drop(image)
            if isinstance(result, np.ndarray):
                waiting.append((image, result))
            else:
                outcome, reason = result
                counts[outcome][reason] += 1
                dropped.append({**image, "cause": reason})
            if len(waiting) == self.config.batch_size:
                yield _make_batch(number, index, waiting)
                index, waiting = index + 1, []
        if waiting:
            yield _make_batch(number, index, waiting)
            index += 1
        last = {"shard": number, "batch": index, "num_batches": index, "counts": json.dumps(counts), "data": b""}
        yield pa.Table.from_pylist([{**last, "metadata": _to_stream(dropped, schema.DROPPED_SCHEMA)}], BATCH_SCHEMA)

    def _decode_or_drop(self, image: dict[str, Any]) -> np.ndarray | tuple[str, str]:
        """Return an image's pixels or, if it is dropped, ("rejected", rule) or ("failed", drop reason).

        Removes the encoded image from the row, and cleans its caption.
        """
        data, image["caption"] = image.pop("image"), caption_cleaning.normalise(image["caption"])
        if rule := caption_rules.first_broken(image["caption"], self.rules):
            return "rejected", rule
        try:
            pixels = decode_image.decode_pixels(data)
        except decode_image.ImageError as error:
            return "failed", error.reason
        if pixels.shape != (self.image_size, self.image_size, 3):  # a shard that another program made
            return "failed", "wrong_size"
        return pixels


def _make_batch(number: int, index: int, rows: list[tuple[dict[str, Any], np.ndarray]]) -> pa.Table:
    row = {
        "shard": number,
        "batch": index,
        "num_batches": UNKNOWN_COUNT,
        "counts": None,
        "metadata": _to_stream([metadata for metadata, _ in rows], METADATA_SCHEMA),
        "data": np.stack([pixels for _, pixels in rows]).tobytes(),
    }
    return pa.Table.from_pylist([row], BATCH_SCHEMA)


def _to_stream(rows: list[dict[str, Any]], columns: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns) as stream:
        stream.write_table(pa.Table.from_pylist(rows, columns))
    return sink.getvalue().to_pybytes()


class Encoder:
    """Replaces the pixels in rows of BATCH_SCHEMA by tokens. Holds a tokenizer on its device: it runs in Ray actors."""

    def __init__(self, config: TokenizeConfig, image_size: int, threads: int):
        """Load the tokenizer.

        Args:
            config: The settings.
            image_size: Width and height of the images, px.
            threads: Number of threads of PyTorch; 0: its default.
        """
        import torch

        from emage import tokenizers
        from emage.utils import oom

        self.device = "cuda" if config.gpus_per_actor else "cpu"
        self.image_size = image_size
        if threads:
            torch.set_num_threads(threads)
        self.tokenizer = tokenizers.load(config.tokenizer, config.weights, device=self.device)
        self.encode = oom.HalvedOnOom(self._encode, config.batch_size)

    def __call__(self, batch: pa.Table) -> pa.Table:
        data = [self._encode_bytes(pixels) for pixels in batch["data"].to_pylist()]
        index = batch.schema.get_field_index("data")
        return batch.set_column(index, "data", pa.array(data, pa.binary()))

    def _encode_bytes(self, data: bytes) -> bytes:
        import torch

        if not data:  # a shard's last row
            return data
        pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        tokens = self.encode(pixels.view(-1, self.image_size, self.image_size, 3))  # (b, n)
        return tokens.numpy().astype(np.uint16).tobytes()

    def _encode(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """Return the tokens (b, n) int64 of pixels (b, H, W, 3) uint8, both on the CPU."""
        return self.tokenizer.encode(pixels.to(self.device).permute(0, 3, 1, 2) / 255).cpu()
