"""Image shards -> tokens as a Ray data set: tasks read and decode, actors with the tokenizer encode.

    shard numbers ─ Reader (tasks) ─ batches of pixels ─ Encoder (actors) ─ batches of tokens ─ whole shards

One row of the data set is one batch of images (tokenize_workers.py). The last row of a shard carries its counts and the
number of its batches, so that the driver knows when a shard is complete. Ray restarts a task whose worker or actor
dies; if a lost node ends the whole data set, `tokenize` starts the shards again that are not complete yet.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from ray.exceptions import RayError, RayTaskError
from tqdm import tqdm

from emage.config import TokenizeConfig
from emage.on_ray import tasks
from emage.on_ray.ingest.tokenize_workers import UNKNOWN_COUNT, Encoder, Reader
from emage.utils.errors import InputError, first_line

BLOCK_BYTES = 16 << 20  # of Ray's blocks: two batches of 32 images of 256x256
SHARDS_PER_DATASET = 2_048  # each costs the driver 1 ms and 4 kB before the first is read
MAX_RESTARTS = 4  # of the data set, while no shard is completed in between
LOST_ENCODERS = "the encoders died or were lost with their node"

_log = logging.getLogger(__name__)


@dataclass
class TokenizedShard:
    """The batches of one shard that have arrived so far."""

    # By the number of the batch: a table of METADATA_SCHEMA, and the tokens (b, n).
    batches: dict[int, tuple[pa.Table, np.ndarray]] = field(default_factory=dict)
    num_batches: int = UNKNOWN_COUNT
    counts: dict[str, Any] = field(default_factory=dict)
    rejected: pa.Table | None = None  # schema.DROPPED_SCHEMA
    num_rows: int = 0  # so far

    def add(self, row: dict[str, Any]) -> int:
        """Add a row of the data set. Return the number of images that it accounts for."""
        metadata = pa.ipc.open_stream(row["metadata"]).read_all()
        if row["num_batches"] == UNKNOWN_COUNT:
            self.batches[row["batch"]] = metadata, np.frombuffer(row["data"], np.uint16).reshape(len(metadata), -1)
        else:
            self.num_batches, self.counts, self.rejected = row["num_batches"], json.loads(row["counts"]), metadata
        self.num_rows += len(metadata)
        return len(metadata)

    @property
    def is_complete(self) -> bool:
        """Return True if all batches and the counts have arrived."""
        return len(self.batches) == self.num_batches


def tokenize(
    config: TokenizeConfig, numbers: list[int], image_size: int, shards: Path, bar: tqdm
) -> Iterator[tuple[int, TokenizedShard]]:
    """Yield the tokenized shards with their numbers, as they are completed.

    Args:
        config: The settings.
        numbers: Of the image shards to tokenize.
        image_size: Width and height of the images, px.
        shards: The folder of the image shards.
        bar: The progress bar; it counts images.

    Raises:
        InputError: The tokenizer does not run, or its actors died more than MAX_RESTARTS times in a row.
    """
    _set_up_ray_data()
    for start in range(0, len(numbers), SHARDS_PER_DATASET):
        left = dict.fromkeys(numbers[start : start + SHARDS_PER_DATASET])
        restarts = 0
        while left:
            waiting: dict[int, TokenizedShard] = {}
            try:
                for number, shard in _assemble(_make_dataset(config, list(left), image_size, shards), waiting, bar):
                    del left[number]
                    restarts = 0
                    yield number, shard
            except RayError as error:
                if isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
                    raise _without_advice(error) from None
                restarts += 1
                if restarts > MAX_RESTARTS:
                    raise InputError(f"{LOST_ENCODERS} ({first_line(error)}); check the memory of its nodes") from None
                num_lost = sum(shard.num_rows for shard in waiting.values())
                bar.update(-num_lost)
                _log.warning("%s (%s); %d rows are tokenized again", LOST_ENCODERS, first_line(error), num_lost)
            assert not left or restarts, f"shards {sorted(left)} are incomplete"


def _assemble(
    dataset: ray.data.Dataset, waiting: dict[int, TokenizedShard], bar: tqdm
) -> Iterator[tuple[int, TokenizedShard]]:
    """Yield each shard when it is complete; `waiting` has the others."""
    blocks: Any = dataset.iter_batches(batch_size=None, batch_format="pyarrow")
    for row in (row for block in blocks for row in block.to_pylist()):
        shard = waiting.setdefault(row["shard"], TokenizedShard())
        bar.update(shard.add(row))
        if shard.is_complete:
            yield row["shard"], waiting.pop(row["shard"])


def _without_advice(error: RayTaskError) -> Exception:
    """Return an InputError of the encoder without the lines of advice and the stack trace that Ray adds."""
    return InputError(first_line(error.cause)) if isinstance(error.cause, InputError) else error


def _make_dataset(config: TokenizeConfig, numbers: list[int], image_size: int, shards: Path) -> ray.data.Dataset:
    """Return the data set that this module's docstring describes. Nothing runs before it is iterated over."""
    weights = config.weights and os.path.abspath(config.weights)  # a worker may have another working folder
    config, threads = replace(config, weights=weights), encoder_threads(config)
    rows = ray.data.from_items([{"shard": number} for number in numbers], override_num_blocks=len(numbers))
    rows = rows.map_batches(Reader(shards, config, image_size), batch_size=1, batch_format="pyarrow", num_cpus=1)
    with warnings.catch_warnings():  # max_restarts and max_task_retries are deprecated without a replacement
        warnings.simplefilter("ignore")
        return rows.map_batches(
            Encoder,
            fn_constructor_args=(config, image_size, threads),
            # Two tasks: an actor's next block is on its node before the one before is finished.
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
    """Return the threads of PyTorch in each actor: all actors get half of the CPUs, decoding gets the others.

    Returns:
        The number; 0, which is PyTorch's default, if the actors have GPUs.

    Raises:
        InputError: This machine has no CPU left for decoding, so that Ray would wait forever. A cluster may grow.
    """
    all_cpus, actor_cpus = (
        [int(node.get("CPU", 0)) for node in tasks.list_nodes(name)] for name in ("", config.node_resource)
    )
    if config.num_actors >= sum(all_cpus) and not os.environ.get("RAY_ADDRESS"):
        raise InputError(
            f"tokenize.num_actors={config.num_actors} leaves none of {sum(all_cpus)} CPUs for decoding: lower it"
        )
    if config.gpus_per_actor:
        return 0
    # An actor fits one node; and on one small machine Ray counts more CPUs than there are cores (launch.start_ray).
    largest = min(all_cpus[0], os.cpu_count() or 1) if len(all_cpus) == 1 else max(actor_cpus, default=1)
    return max(1, min(sum(actor_cpus) // config.num_actors, largest) // 2)


def _set_up_ray_data() -> None:
    """Use small blocks, which keep the actors busy; turn off Ray's bars and logs, since the stage has its own bar."""
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = BLOCK_BYTES
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.raise_original_map_exception = True  # an InputError is raised as one
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    for name in ("exceptions", "_internal.execution.streaming_executor_state"):  # what these log is raised as well
        logging.getLogger(f"ray.data.{name}").setLevel(logging.CRITICAL)
