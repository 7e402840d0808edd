"""Image shards -> tokenized shards, in Ray Data: caption rules and decoding on CPU tasks, the tokenizer in actors.

    shard numbers ─ _Reader (tasks) ─ batches of pixels ─ _Encoder (actors) ─ batches of tokens ─ the driver writes

One row of the Ray data set is one batch of pictures. A batch holds consecutive pictures of one shard, so its tokens do
not depend on how Ray cuts its blocks, on timing or on restarts. A shard's last row carries its counts and says how many
batches came before it; the driver writes a shard when all of them are there.

A tokenized shard is a folder `tokenized/NNNNN`: `tokens.parquet` (schema.token_table) and `manifest.json`.
"""

import hashlib
import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from tqdm import tqdm

import emage
from emage import captions, manifest, pictures, schema
from emage.config import TokenizeConfig
from emage.errors import InputError
from emage.on_ray import download, tasks

# torch takes seconds to import, and the tasks that decode have no use for it: only _Encoder and `describe` do.

TOKENS = "tokens.parquet"
ROW_BITS = 40  # of a uid: the key's number; the data set's hash is above it
BLOCK_BYTES = 16 << 20  # between the stages: two batches of 32 pictures of 256x256
RESTARTS = 4  # of an actor, and of a task on one
UNKNOWN = -1  # number of batches, in every row but a shard's last

# A row between the stages: one batch of one shard. `meta` is an Arrow stream of META's rows; `data` is raw bytes,
# uint8 pixels (b, size, size, 3) before the encoder and uint16 tokens (b, n) behind it.
BATCH = pa.schema(
    [
        ("shard", pa.int64()),
        ("place", pa.int64()),
        ("places", pa.int64()),
        ("counts", pa.string()),
        ("meta", pa.binary()),
        ("data", pa.binary()),
    ]
)
META = pa.schema([item for item in schema.PICTURE if item.name != "image"])


def describe(config: TokenizeConfig, image_size: int) -> schema.TokenizerInfo:
    """The tokenizer's identity. Raises InputError where it cannot be loaded or does not fit the pictures' size."""
    import torch

    from emage import tokenizers

    try:
        tokenizer = tokenizers.load(config.tokenizer, config.weights)
    except (ValueError, OSError) as error:
        raise InputError(f"tokenize.tokenizer={config.tokenizer}: {error}") from None
    num_tokens = tokenizer.encode(torch.zeros(1, 3, image_size, image_size)).shape[1]
    height, width = tokenizer.grid
    if num_tokens != height * width:
        raise InputError(
            f"{tokenizer.name} makes {num_tokens} tokens of a {image_size}x{image_size} picture, but its grid is "
            f"{height}x{width}: set download.image_size to the size that it was trained on"
        )
    assert tokenizer.vocab_size <= 1 << 16, "tokens are uint16"
    return schema.TokenizerInfo(tokenizer.name, tokenizer.sha256, tokenizer.vocab_size, (height, width))


def run(
    config: TokenizeConfig, info: schema.TokenizerInfo, *, image_size: int, shards: Path, folder: Path
) -> dict[str, Any]:
    """Tokenizes every shard that `folder` does not hold yet. Returns the stage's manifest."""
    folder.mkdir(exist_ok=True)
    manifest.remove_leftovers(folder)
    downloaded = manifest.read_json(shards / manifest.NAME)
    settings = manifest.fingerprint([asdict(info), config.caption_rules])
    done, missing = _split(shards, folder, downloaded["shards"], settings)
    rows_left = downloaded["written"] - sum(shard["rows"] for shard in done)
    with tasks.bar("tokenize", rows_left, "pictures") as bar:
        for number, tokens, counts in _tokenized(config, missing, image_size, shards, bar):
            table = _token_table(info, tokens)
            inputs = download.content(shards, number)
            done.append(_write(download.shard_folder(folder, number), table, counts, inputs, settings))
    rejected, failed = Counter[str](), Counter[str]()
    for shard in done:
        rejected.update(shard["rejected"])
        failed.update(shard["failed"])
    values = {
        "shards": len(done),
        "rows": sum(shard["rows"] for shard in done),
        "written": sum(shard["written"] for shard in done),
        "rejected": dict(sorted(rejected.items())),
        "failed": dict(sorted(failed.items())),
        "tokenizer": asdict(info),
        "input": manifest.fingerprint([download.content(shards, number) for number in range(downloaded["shards"])]),
    }
    manifest.write_json(folder / manifest.NAME, values)
    return values


def finished(shards: Path, folder: Path) -> dict[str, Any] | None:
    """The stage's manifest where every tokenized shard is there and made from today's image shards, else None."""
    values = manifest.read_json(folder / manifest.NAME)
    downloaded = download.finished(shards)
    if values is None or downloaded is None or values["shards"] != downloaded["shards"]:
        return None
    numbers = range(values["shards"])
    if values["input"] != manifest.fingerprint([download.content(shards, number) for number in numbers]):
        return None
    return values if all(download.shard_manifest(folder, number) for number in numbers) else None


def _split(shards: Path, folder: Path, count: int, settings: str) -> tuple[list[dict[str, Any]], list[int]]:
    """The manifests of the shards that are done, the numbers of the others."""
    done, missing = [], []
    for number in range(count):
        shard = download.shard_manifest(folder, number)
        if shard is None or shard["input"] != download.content(shards, number):
            missing.append(number)
        elif shard["settings"] != settings:
            raise InputError(
                f"{download.shard_folder(folder, number)} was made by another tokenizer or with other caption rules; "
                "choose another output= or delete the folder"
            )
        else:
            done.append(shard)
    return done, missing


# --- The Ray data set ------------------------------------------------------------------------------------------------


@dataclass
class _Assembly:
    """What has come of one shard so far."""

    batches: dict[int, tuple[pa.Table, np.ndarray]] = field(default_factory=dict)
    places: int = UNKNOWN
    counts: dict[str, Any] = field(default_factory=dict)

    def take(self, row: dict[str, Any]) -> int:
        """Adds one batch, or the counts that a shard's last row brings. Returns how many pictures that settles."""
        if row["places"] != UNKNOWN:
            self.places, self.counts = row["places"], json.loads(row["counts"])
            return sum(self.counts["rejected"].values()) + sum(self.counts["failed"].values())
        meta = pa.ipc.open_stream(row["meta"]).read_all()
        self.batches[row["place"]] = meta, np.frombuffer(row["data"], np.uint16).reshape(len(meta), -1)
        return len(meta)

    @property
    def is_complete(self) -> bool:
        return len(self.batches) == self.places


Tokens = list[tuple[pa.Table, np.ndarray]]  # META's rows with their tokens (b, n)


def _tokenized(
    config: TokenizeConfig, numbers: list[int], image_size: int, shards: Path, bar: tqdm
) -> Iterator[tuple[int, Tokens, dict[str, Any]]]:
    """Shard by shard, as they get ready: number, batches in order, counts."""
    if not numbers:
        return
    _set_up_ray_data()
    blocks: Any = _batches(config, numbers, image_size, shards).iter_batches(batch_size=None, batch_format="pyarrow")
    assemblies: dict[int, _Assembly] = {}
    for block in blocks:
        for row in block.to_pylist():
            assembly = assemblies.setdefault(row["shard"], _Assembly())
            bar.update(assembly.take(row))
            if assembly.is_complete:
                del assemblies[row["shard"]]
                yield row["shard"], [assembly.batches[place] for place in range(assembly.places)], assembly.counts
    assert not assemblies, f"shards {sorted(assemblies)} are incomplete"


def _batches(config: TokenizeConfig, numbers: list[int], image_size: int, shards: Path) -> ray.data.Dataset:
    """The data set of the docstring on top; nothing runs before somebody iterates over it."""
    weights = config.weights and os.path.abspath(config.weights)  # a worker may have another working folder
    config, on_gpu = replace(config, weights=weights), config.gpus_per_actor > 0
    threads = 0 if on_gpu else max(1, int(ray.cluster_resources()["CPU"]) // 2 // config.num_actors)
    rows = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
    rows = rows.map_batches(_Reader(shards, config, image_size), batch_size=1, batch_format="pyarrow", num_cpus=1)
    with warnings.catch_warnings():  # max_restarts and max_task_retries are "deprecated", with nothing in their place
        warnings.simplefilter("ignore")
        return rows.map_batches(
            _Encoder,
            fn_constructor_args=(config, image_size, threads),
            compute=ray.data.ActorPoolStrategy(size=config.num_actors),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=max(1, threads),
            num_gpus=config.gpus_per_actor,
            # Without a bound, a batch that kills its actor would do so for ever. These two also keep Ray from merging
            # this stage with the one before: an accelerator would wait for its own decoding.
            max_restarts=RESTARTS,
            max_task_retries=RESTARTS,
        )


def _set_up_ray_data() -> None:
    """Small blocks keep the actors fed; and the stage has a progress bar of its own, without plans and opinions."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


class _Reader:
    """One image shard -> its batches: captions judged, pictures decoded. Stateless, runs as tasks."""

    def __init__(self, shards: Path, config: TokenizeConfig, image_size: int):
        self.shards, self.config, self.image_size = shards, config, image_size

    def __call__(self, numbers: pa.Table) -> Iterator[pa.Table]:
        for number in numbers["shard"].to_pylist():
            yield from self._shard(number)

    def _shard(self, number: int) -> Iterator[pa.Table]:
        rejected, failed = Counter[str](), Counter[str]()
        rows = place = 0
        waiting: list[tuple[dict[str, Any], np.ndarray]] = []
        for file in download.picture_files(self.shards, number):
            for picture in _rows(file):
                rows += 1
                picture["caption"] = captions.normalise(picture["caption"])
                if self.config.caption_rules and (rule := captions.keep(picture["caption"])):
                    rejected[rule] += 1
                    continue
                try:
                    waiting.append((picture, self._pixels(picture.pop("image"))))
                except pictures.PictureError as error:
                    failed[error.cause] += 1
                if len(waiting) == self.config.batch_size:
                    yield _batch(number, place, waiting)
                    place, waiting = place + 1, []
        if waiting:
            yield _batch(number, place, waiting)
            place += 1
        counts = {"rows": rows, "rejected": dict(rejected), "failed": dict(failed)}
        last = {"shard": number, "place": place, "places": place, "counts": json.dumps(counts), "data": b""}
        yield pa.Table.from_pylist([last], BATCH)

    def _pixels(self, data: bytes) -> np.ndarray:
        pixels = pictures.pixels(data)
        if pixels.shape != (self.image_size, self.image_size, 3):  # a shard that somebody else made
            raise pictures.PictureError("wrong_size")
        return pixels


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(file) as pictures_file:
        for batch in pictures_file.iter_batches(batch_size=256):
            yield from batch.to_pylist()


def _batch(number: int, place: int, rows: list[tuple[dict[str, Any], np.ndarray]]) -> pa.Table:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, META) as stream:
        stream.write_table(pa.Table.from_pylist([meta for meta, _ in rows], META))
    row = {
        "shard": number,
        "place": place,
        "places": UNKNOWN,
        "counts": None,
        "meta": sink.getvalue().to_pybytes(),
        "data": np.stack([pixels for _, pixels in rows]).tobytes(),
    }
    return pa.Table.from_pylist([row], BATCH)


class _Encoder:
    """A tokenizer on its device. Knows nothing of captions."""

    def __init__(self, config: TokenizeConfig, image_size: int, threads: int):
        import torch

        from emage import tokenizers

        self.device = "cuda" if config.gpus_per_actor else "cpu"
        self.image_size = image_size
        if threads:
            torch.set_num_threads(threads)
        self.tokenizer = tokenizers.load(config.tokenizer, config.weights, device=self.device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        data = [self._tokens(pixels) for pixels in batch["data"].to_pylist()]
        index = batch.schema.get_field_index("data")
        return batch.set_column(index, "data", pa.array(data, pa.binary()))

    def _tokens(self, data: bytes) -> bytes:
        import torch

        if not data:  # a shard's last row
            return data
        pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8).to(self.device)
        pixels = pixels.view(-1, self.image_size, self.image_size, 3).permute(0, 3, 1, 2) / 255  # (b, 3, H, W)
        return self.tokenizer.encode(pixels).cpu().numpy().astype(np.uint16).tobytes()  # (b, n)


# --- The token table -------------------------------------------------------------------------------------------------


def _token_table(info: schema.TokenizerInfo, batches: Tokens) -> pa.Table:
    """Plain Arrow columns, whatever Ray made of them on the way."""
    target = schema.token_table(info, emage.__version__)
    meta = pa.concat_tables([META.empty_table(), *(meta for meta, _ in batches)])
    tokens = np.concatenate([np.empty((0, info.num_tokens), np.uint16), *(tokens for _, tokens in batches)])
    assert tokens.max(initial=0) < info.vocab_size
    columns: dict[str, Any] = {name: meta[name] for name in META.names}
    columns["tokens"] = pa.FixedSizeListArray.from_arrays(pa.array(tokens.reshape(-1)), info.num_tokens)
    names = zip(meta["dataset"].to_pylist(), meta["key"].to_pylist(), strict=True)
    columns["uid"] = pa.array([uid(dataset, key) for dataset, key in names], pa.int64())
    return pa.table([columns[name] for name in target.names], schema=target)


def uid(dataset: str, key: str) -> int:
    """63 bits: the data set's name hashed to 23, the key's number in 40."""
    name = int.from_bytes(hashlib.sha256(dataset.encode()).digest()[:3], "big") >> 1
    assert int(key) < 1 << ROW_BITS
    return name << ROW_BITS | int(key)


def _write(folder: Path, table: pa.Table, counts: dict[str, Any], inputs: str, settings: str) -> dict[str, Any]:
    with manifest.new_folder(folder) as temporary:
        pq.write_table(table, temporary / TOKENS, compression="zstd")
        values = {
            **counts,
            "written": len(table),
            "input": inputs,
            "settings": settings,
            "outputs": {TOKENS: manifest.sha256(temporary / TOKENS)},
        }
        manifest.write_json(temporary / manifest.NAME, values)
    return values
