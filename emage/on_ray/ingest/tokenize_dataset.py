"""Image shards -> batches of tokens, a Ray data set: caption rules and decoding on CPU tasks, the tokenizer in actors.

    shard numbers ─ _Reader (tasks) ─ batches of pixels ─ _Encoder (actors) ─ batches of tokens ─ whole shards

One row of the data set is one batch of images. A batch holds consecutive images of one shard, so its tokens do not
depend on how Ray cuts its blocks, on timing or on restarts. A shard's last row carries its counts and says how many
batches came before it. Ray starts again what dies with a worker or an actor; where a node takes more than that away,
the shards that are not complete yet are begun again.
"""

import json
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.exceptions import RayError, RayTaskError
from tqdm import tqdm

from emage.config import TokenizeConfig
from emage.data import schema
from emage.data.ingest import decode_image
from emage.data.ingest.captions import caption_cleaning, caption_rules
from emage.on_ray import tasks
from emage.on_ray.ingest import download
from emage.utils.errors import InputError

if TYPE_CHECKING:  # it takes seconds to import, and the tasks that decode have no use for it
    import torch

BLOCK_BYTES = 16 << 20  # between the stages: two batches of 32 images of 256x256
GROUP = 2_048  # shards in one Ray data set: each costs the driver 1 ms and 4 kB before the first is read
RESTARTS = 4  # of the data set, where no shard gets done in between
LOST = "the encoders were lost with their node or died"
UNKNOWN = -1  # number of batches, in every row but a shard's last

# A row between the stages: one batch of one shard. `meta` is an Arrow stream of META's rows; `data` is raw bytes,
# uint8 pixels (b, size, size, 3) before the encoder and uint16 tokens (b, n) behind it. A shard's last row has no data,
# and REJECTED_SCHEMA's rows for `meta`.
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
META = pa.schema([item for item in schema.IMAGE if item.name != "image"])
REJECTED_SCHEMA = pa.schema([(name, pa.string()) for name in ("key", "dataset", "url", "caption", "cause")])

_log = logging.getLogger(__name__)


@dataclass
class Shard:
    """What has come of one shard so far."""

    batches: dict[int, tuple[pa.Table, np.ndarray]] = field(default_factory=dict)  # META's rows, tokens (b, n)
    places: int = UNKNOWN
    counts: dict[str, Any] = field(default_factory=dict)
    rejected: pa.Table | None = None  # REJECTED_SCHEMA
    num_rows: int = 0  # so far

    def take(self, row: dict[str, Any]) -> int:
        """Adds one batch, or what a shard's last row brings. Returns how many images that settles."""
        meta = pa.ipc.open_stream(row["meta"]).read_all()
        if row["places"] == UNKNOWN:
            self.batches[row["place"]] = meta, np.frombuffer(row["data"], np.uint16).reshape(len(meta), -1)
        else:
            self.places, self.counts, self.rejected = row["places"], json.loads(row["counts"]), meta
        self.num_rows += len(meta)
        return len(meta)

    @property
    def is_complete(self) -> bool:
        return len(self.batches) == self.places


def tokenized(
    config: TokenizeConfig, numbers: list[int], image_size: int, shards: Path, bar: tqdm
) -> Iterator[tuple[int, Shard]]:
    """Shard by shard, as they get ready, with their numbers. Moves the bar by images."""
    _set_up_ray_data()
    for start in range(0, len(numbers), GROUP):
        left = dict.fromkeys(numbers[start : start + GROUP])
        tries = 0
        while left:
            waiting: dict[int, Shard] = {}
            try:
                for number, shard in _complete(_batches(config, list(left), image_size, shards), waiting, bar):
                    del left[number]
                    tries = 0
                    yield number, shard
            except RayError as error:
                if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
                    raise _without_advice(error) from None
                tries += 1
                if tries > RESTARTS:
                    raise InputError(f"{LOST} ({_first_line(error)}); look at the memory of its nodes") from None
                again = sum(shard.num_rows for shard in waiting.values())
                bar.update(-again)
                _log.warning("%s (%s); %d rows are tokenized again", LOST, _first_line(error), again)
            assert not left or tries, f"shards {sorted(left)} are incomplete"


def _complete(batches: ray.data.Dataset, waiting: dict[int, Shard], bar: tqdm) -> Iterator[tuple[int, Shard]]:
    """Puts batches together; the shards that are not complete are in `waiting`."""
    blocks: Any = batches.iter_batches(batch_size=None, batch_format="pyarrow")
    for row in (row for block in blocks for row in block.to_pylist()):
        shard = waiting.setdefault(row["shard"], Shard())
        bar.update(shard.take(row))
        if shard.is_complete:
            yield row["shard"], waiting.pop(row["shard"])


def _without_advice(error: RayTaskError) -> Exception:
    """Ray adds lines of advice to an InputError, and a stack trace."""
    return InputError(_first_line(error.cause)) if isinstance(error.cause, InputError) else error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _batches(config: TokenizeConfig, numbers: list[int], image_size: int, shards: Path) -> ray.data.Dataset:
    """The data set of the docstring on top; nothing runs before somebody iterates over it."""
    weights = config.weights and os.path.abspath(config.weights)  # a worker may have another working folder
    config, threads = replace(config, weights=weights), encoder_threads(config)
    rows = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
    rows = rows.map_batches(_Reader(shards, config, image_size), batch_size=1, batch_format="pyarrow", num_cpus=1)
    with warnings.catch_warnings():  # max_restarts and max_task_retries are "deprecated", with nothing in their place
        warnings.simplefilter("ignore")
        return rows.map_batches(
            _Encoder,
            fn_constructor_args=(config, image_size, threads),
            # Two tasks: an actor's next block is on its node before it has done with the one before.
            compute=ray.data.ActorPoolStrategy(size=config.num_actors, max_tasks_in_flight_per_actor=2),
            batch_size=1,
            batch_format="pyarrow",
            num_cpus=max(1, threads),
            num_gpus=config.gpus_per_actor,
            resources=tasks.resources_of_nodes(config.node_resource),
            # An actor that Ray itself started again, after its node was lost, could outlive its data set and keep the
            # CPU or the GPU that the next one waits for. These two also keep Ray from merging this stage with the one
            # before: an accelerator would wait for its own decoding.
            max_restarts=0,
            max_task_retries=0,
        )


def encoder_threads(config: TokenizeConfig) -> int:
    """Of PyTorch in each actor: half of the CPUs go to all actors, the others decode. 0, PyTorch's choice, on a GPU.

    Raises InputError where this machine has no CPU left for decoding: Ray would wait for ever. A cluster may grow.
    """
    cpus, holders = (
        [int(node.get("CPU", 0)) for node in tasks.list_nodes(name)] for name in ("", config.node_resource)
    )
    if config.num_actors >= sum(cpus) and not os.environ.get("RAY_ADDRESS"):
        raise InputError(
            f"tokenize.num_actors={config.num_actors} leaves none of {sum(cpus)} CPUs for decoding: lower it"
        )
    if config.gpus_per_actor:
        return 0
    # An actor fits one node; and on one small machine Ray counts more CPUs than there are cores (launch.start_ray).
    largest = min(cpus[0], os.cpu_count() or 1) if len(cpus) == 1 else max(holders, default=1)
    return max(1, min(sum(holders) // config.num_actors, largest) // 2)


def _set_up_ray_data() -> None:
    """Small blocks keep the actors fed; and the stage has a progress bar of its own, without plans and opinions."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # an InputError stays one
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    logging.getLogger("ray.data.exceptions").setLevel(logging.CRITICAL)  # what it logs is raised as well


class _Reader:
    """One image shard -> its batches: captions judged, images decoded. Stateless, runs as tasks."""

    def __init__(self, shards: Path, config: TokenizeConfig, image_size: int):
        self.shards, self.config, self.image_size = shards, config, image_size

    def __call__(self, numbers: pa.Table) -> Iterator[pa.Table]:
        for number in numbers["shard"].to_pylist():
            yield from self._shard(number)

    def _shard(self, number: int) -> Iterator[pa.Table]:
        counts: dict[str, Any] = {"rows": 0, "rejected": Counter(), "failed": Counter()}
        dropped: list[dict[str, Any]] = []
        waiting: list[tuple[dict[str, Any], np.ndarray]] = []
        place = 0
        for image in _rows(download.image_files(self.shards, number)):
            counts["rows"] += 1
            result = self._judge(image)
            if isinstance(result, np.ndarray):
                waiting.append((image, result))
            else:
                outcome, cause = result
                counts[outcome][cause] += 1
                dropped.append({**image, "cause": cause})
            if len(waiting) == self.config.batch_size:
                yield _batch(number, place, waiting)
                place, waiting = place + 1, []
        if waiting:
            yield _batch(number, place, waiting)
            place += 1
        last = {"shard": number, "place": place, "places": place, "counts": json.dumps(counts), "data": b""}
        yield pa.Table.from_pylist([{**last, "meta": _stream(dropped, REJECTED_SCHEMA)}], BATCH)

    def _judge(self, image: dict[str, Any]) -> np.ndarray | tuple[str, str]:
        """The pixels of an image, or why it is dropped: ("rejected", rule) or ("failed", cause). Takes its image."""
        data, image["caption"] = image.pop("image"), caption_cleaning.normalise(image["caption"])
        if self.config.caption_rules and (rule := caption_rules.drop_reason(image["caption"])):
            return "rejected", rule
        try:
            pixels = decode_image.pixels(data)
        except decode_image.ImageError as error:
            return "failed", error.reason
        if pixels.shape != (self.image_size, self.image_size, 3):  # a shard that somebody else made
            return "failed", "wrong_size"
        return pixels


def _rows(files: list[Path]) -> Iterator[dict[str, Any]]:
    for file in files:
        with pq.ParquetFile(file) as images_file:
            for batch in images_file.iter_batches(batch_size=256):
                yield from batch.to_pylist()


def _batch(number: int, place: int, rows: list[tuple[dict[str, Any], np.ndarray]]) -> pa.Table:
    row = {
        "shard": number,
        "place": place,
        "places": UNKNOWN,
        "counts": None,
        "meta": _stream([meta for meta, _ in rows], META),
        "data": np.stack([pixels for _, pixels in rows]).tobytes(),
    }
    return pa.Table.from_pylist([row], BATCH)


def _stream(rows: list[dict[str, Any]], columns: pa.Schema) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, columns) as stream:
        stream.write_table(pa.Table.from_pylist(rows, columns))
    return sink.getvalue().to_pybytes()


class _Encoder:
    """A tokenizer on its device. Knows nothing of captions."""

    def __init__(self, config: TokenizeConfig, image_size: int, threads: int):
        import torch

        from emage import tokenizers
        from emage.utils import oom

        self.device = "cuda" if config.gpus_per_actor else "cpu"
        self.image_size = image_size
        if threads:
            torch.set_num_threads(threads)
        self.tokenizer = tokenizers.load(config.tokenizer, config.weights, device=self.device)
        self.in_parts = oom.HalvedOnOom(self._tokens, config.batch_size)

    def __call__(self, batch: pa.Table) -> pa.Table:
        data = [self._encoded(pixels) for pixels in batch["data"].to_pylist()]
        index = batch.schema.get_field_index("data")
        return batch.set_column(index, "data", pa.array(data, pa.binary()))

    def _encoded(self, data: bytes) -> bytes:
        import torch

        if not data:  # a shard's last row
            return data
        pixels = torch.frombuffer(bytearray(data), dtype=torch.uint8)
        tokens = self.in_parts(pixels.view(-1, self.image_size, self.image_size, 3))  # (b, n)
        return tokens.numpy().astype(np.uint16).tobytes()

    def _tokens(self, pixels: "torch.Tensor") -> "torch.Tensor":
        """(b, H, W, 3) uint8 -> (b, n) int64, both on the CPU."""
        return self.tokenizer.encode(pixels.to(self.device).permute(0, 3, 1, 2) / 255).cpu()
