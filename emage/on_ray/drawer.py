"""The actors of an evaluation: each holds a model and the networks that judge, and does parts of the work.

A part is written when it is whole and may be begun again anywhere: Ray replaces actors that are lost, and their parts
are repeated. A part makes the same bytes wherever it is done.
"""

import socket
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayActorError, WorkerCrashedError
from ray.util import ActorPool
from torch import Tensor

from emage import devices
from emage.config import EvaluateConfig
from emage.errors import InputError
from emage.evaluation import judging, shards
from emage.evaluation.judging import Judge
from emage.evaluation.shards import Drawn, Shard
from emage.metrics import reference
from emage.metrics.picture_files import PictureFile
from emage.on_ray import tasks
from emage.pipeline import Emage
from emage.ranking import ClipRanker

LOST = 100  # actors that are replaced, of each
REPEATED = 5  # times that a part is begun again; one that ends its actor every time is no accident


class Networks(NamedTuple):
    """What a driver found, which every actor must find as well."""

    checkpoint: dict[str, str]  # sha256 of its files
    ranker: dict[str, Any] | None  # facts of the CLIP that ranks
    judges: dict[str, dict[str, Any]]  # facts, by name
    code: dict[str, str]  # versions and commit of what draws


class Drawer:
    """Runs on an actor, with the same weights as the driver, or not at all."""

    def __init__(self, config: EvaluateConfig, networks: Networks):
        self.config, self.networks, self.output = config, networks, Path(config.output)
        self.device = "cuda" if config.gpus_per_actor else "cpu"
        devices.set_precision("float32", self.device)
        if self.device == "cpu":  # another number of threads rounds otherwise, and a part comes out the same anywhere
            torch.set_num_threads(1)

    def do(self, number: int, method: str, arguments: Sequence[Any]) -> tuple[int, Any]:
        """The part's number and what its method returns."""
        try:
            return number, getattr(self, method)(*arguments)
        except torch.OutOfMemoryError as error:
            why = str(error).splitlines()[0]
            raise InputError(
                f"a GPU's memory is too small ({why}): lower batch_size={self.config.batch_size}"
            ) from None

    def draw(self, shard: Shard) -> None:
        """Draws and writes the candidates of a shard's captions."""
        config = self.config
        groups = self.pipe.candidates(
            [task.caption for task in shard.tasks],
            seed=[task.seed(config.seed) for task in shard.tasks],
            candidates=config.candidates,
            rank=config.rank,
            ranker=self.ranker,
            batch_size=config.batch_size,
            **config.sampling,
        )
        drawn = [
            Drawn(task, [picture for picture, _ in group], [score for _, score in group])
            for task, group in zip(shard.tasks, groups, strict=True)
        ]
        with tasks.writing(self.output):
            shards.write(self.output, shard.index, drawn, config.candidates, self.networks.code | self._place)

    def judge(self, shard: Shard, name: str, kind: str) -> None:
        """Writes what the judge of this name says of the shard's pictures of a kind."""
        pictures = list(shards.pictures(self.output, kind, [shard]))
        captions = [task.caption for task in shard.tasks]
        judge, size = self.judges[name], self.config.batch_size
        rows = [judge.rows(pictures[i : i + size], captions[i : i + size]) for i in range(0, len(pictures), size)]
        with tasks.writing(self.output):
            shards.write_judged(self.output, judge.folder, kind, shard.index, torch.cat(rows))

    def reference(self, files: Sequence[PictureFile], name: str) -> Tensor:
        """(M, D) features of real pictures."""
        extractor = self.judges[name].extractor
        assert extractor is not None
        return reference.features(files, extractor, self.pipe.size[0], self.config.batch_size)

    # --- Parts, made when they are first needed ---

    @cached_property
    def pipe(self) -> Emage:
        pipe = Emage.from_pretrained(self.config.checkpoint, device=self.device, dtype=self.config.dtype)
        if self.config.compile:
            pipe.compile()
        if pipe.facts["files"] != self.networks.checkpoint:
            raise InputError(f"{socket.gethostname()} has another model at {self.config.checkpoint} than the driver")
        return pipe

    @cached_property
    def ranker(self) -> ClipRanker | None:
        found = ranker(self.config, self.device)
        if found and found.facts != self.networks.ranker:
            raise InputError(f"{socket.gethostname()} has another CLIP that ranks than the driver (rank_weights=FILE)")
        return found

    @cached_property
    def judges(self) -> dict[str, Judge]:
        return judging.load(self.config, self.pipe.tokenizer, self.device, self.networks.ranker, self.networks.judges)

    @property
    def _place(self) -> dict[str, str]:
        return {"device": torch.cuda.get_device_name() if self.device == "cuda" else "cpu"}


def ranker(config: EvaluateConfig, device: str) -> ClipRanker | None:
    """The CLIP that ranks, where one does. Raises InputError where its weights can't be had."""
    if config.rank != "clip" or config.candidates == 1:
        return None
    return ClipRanker(config.rank_weights, config.rank_model, device)


class Part(NamedTuple):
    """One call of an actor."""

    method: str
    arguments: tuple[Any, ...]
    size: int  # pictures, for the bar


class Pool:
    """The actors, started when there is work for them."""

    def __init__(self, config: EvaluateConfig, networks: Networks):
        self.config, self.networks = config, networks
        self._actors = 0
        self._pool = ActorPool([])

    def run(self, stage: str, parts: Sequence[Part], done: int = 0) -> list[Any]:
        """The parts' results in their order. `done` pictures were there before; the bar counts them."""
        results: list[Any] = [None] * len(parts)
        if not parts:
            return results
        self._grow(len(parts))
        call: Any = lambda actor, job: actor.do.remote(job[0], job[1].method, job[1].arguments)  # noqa: E731
        with tasks.bar(stage, done + sum(part.size for part in parts), "pictures", done) as bar:
            try:
                for number, result in self._pool.map_unordered(call, list(enumerate(parts))):
                    results[number] = result
                    bar.update(parts[number].size)
            except (RayActorError, NodeDiedError, OutOfMemoryError, WorkerCrashedError) as error:
                reason = str(error).strip().splitlines()[0]
                raise InputError(
                    f"an actor died again and again ({reason}); look at the memory of its node (a smaller batch_size "
                    "needs less) and give the same command again"
                ) from None
        return results

    def _grow(self, parts: int) -> None:
        """As many actors as there is work for, and no more than are wanted."""
        gpus = self.config.gpus_per_actor
        actor = ray.remote(num_gpus=gpus, num_cpus=1, max_restarts=LOST, max_task_retries=REPEATED)(Drawer)
        wanted = min(self.config.num_actors, parts)
        there = ray.cluster_resources().get("GPU", 0.0)
        if wanted * gpus > there:
            print(f"{wanted * gpus:g} GPUs are asked for, the cluster has {there:g}: waiting for the rest")
        for _ in range(self._actors, wanted):
            handle: Any = actor.remote(self.config, self.networks)
            self._pool.push(handle)
        self._actors = max(self._actors, wanted)
