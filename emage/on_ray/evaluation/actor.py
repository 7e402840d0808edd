"""An actor of an evaluation: it holds a model and the networks that judge, and does parts of the work.

A part is written when it is whole, and makes the same bytes wherever it is done, and however often.
"""

import socket
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from emage.config import EvaluateConfig
from emage.evaluation import image_shards, scoring
from emage.evaluation.image_shards import Drawn, Shard
from emage.evaluation.metrics import reference_features as reference
from emage.evaluation.metrics.image_files import ImageFile
from emage.evaluation.scoring import Judge
from emage.inference.pipeline import Emage
from emage.inference.ranking import ClipRanker
from emage.model import device_support
from emage.on_ray import tasks
from emage.utils.errors import InputError


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
        device_support.set_precision("float32", self.device)
        if self.device == "cpu":  # another number of threads rounds otherwise, and a part comes out the same anywhere
            torch.set_num_threads(1)

    def is_there(self) -> None:
        """Answers as soon as the actor has started."""

    def do(self, method: str, arguments: Sequence[Any]) -> Any:
        """What the method of this name returns. Raises InputError where a GPU is too small for it."""
        try:
            return getattr(self, method)(*arguments)
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
            Drawn(task, [image for image, _ in group], [score for _, score in group])
            for task, group in zip(shard.tasks, groups, strict=True)
        ]
        with tasks.explain_disk_errors(self.output):
            image_shards.write(self.output, shard.index, drawn, config.candidates, self.networks.code | self._place)

    def judge(self, shard: Shard, name: str, kind: str) -> None:
        """Writes what the judge of this name says of the shard's images of a kind."""
        images = list(image_shards.images(self.output, kind, [shard]))
        captions = [task.caption for task in shard.tasks]
        judge, size = self.judges[name], self.config.batch_size
        rows = [judge.rows(images[i : i + size], captions[i : i + size]) for i in range(0, len(images), size)]
        with tasks.explain_disk_errors(self.output):
            image_shards.write_judged(self.output, judge.folder, kind, shard.index, torch.cat(rows))

    def reference(self, files: Sequence[ImageFile], name: str) -> Tensor:
        """(M, D) features of real images."""
        extractor = self.judges[name].extractor
        assert extractor is not None
        return reference.features(files, extractor, self.pipe.size[0], self.config.batch_size)

    # --- Parts, made when they are first needed ---

    @cached_property
    def pipe(self) -> Emage:
        pipe = Emage.from_pretrained(self.config.checkpoint, device=self.device, dtype=self.config.dtype)
        if self.config.compile:
            pipe.compile()
        if pipe.metadata["files"] != self.networks.checkpoint:
            raise InputError(f"{socket.gethostname()} has another model at {self.config.checkpoint} than the driver")
        return pipe

    @cached_property
    def ranker(self) -> ClipRanker | None:
        found = ranker(self.config, self.device)
        if found and found.metadata != self.networks.ranker:
            raise InputError(f"{socket.gethostname()} has another CLIP that ranks than the driver (rank_weights=FILE)")
        return found

    @cached_property
    def judges(self) -> dict[str, Judge]:
        return scoring.load(self.config, self.pipe.tokenizer, self.device, self.networks.ranker, self.networks.judges)

    @property
    def _place(self) -> dict[str, str]:
        return {"device": torch.cuda.get_device_name() if self.device == "cuda" else "cpu"}


def ranker(config: EvaluateConfig, device: str) -> ClipRanker | None:
    """The CLIP that ranks, where one does. Raises InputError where its weights can't be had."""
    if config.rank != "clip" or config.candidates == 1:
        return None
    return ClipRanker(config.rank_weights, config.rank_model, device)
