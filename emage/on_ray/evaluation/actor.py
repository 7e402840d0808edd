"""The Ray actor of an evaluation: it holds a model and the scorers, and executes work items.

The output of a work item is written when it is complete. It has the same bytes on every machine and at every attempt.
"""

import socket
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from emage.config import EvaluateConfig
from emage.data.images.image_files import ImageFile
from emage.evaluation import image_shards, reference_features, scoring
from emage.evaluation.image_shards import CandidateImages, Shard
from emage.evaluation.scoring import Scorer
from emage.inference.pipeline import Emage
from emage.inference.ranking import ClipRanker
from emage.model import device_support
from emage.on_ray import tasks
from emage.utils.errors import InputError, first_line


class ExpectedWeights(NamedTuple):
    """Weights and code as the driver found them; every actor must find the same.

    Args:
        checkpoint: sha256 of the checkpoint's files, by name.
        ranker: Metadata of the CLIP that ranks candidates, if there is one.
        scorers: Metadata of the scorers, by name.
        code: Versions and commit of the code that generates the images.
    """

    checkpoint: dict[str, str]
    ranker: dict[str, Any] | None
    scorers: dict[str, dict[str, Any]]
    code: dict[str, str]


class EvaluationActor:
    """Generates and scores images.

    The networks are loaded when a method first needs them; InputError is raised if they are not those of the driver.
    """

    def __init__(self, config: EvaluateConfig, expected: ExpectedWeights):
        self.config, self.expected, self.output = config, expected, Path(config.output)
        self.device = "cuda" if config.gpus_per_actor else "cpu"
        device_support.set_precision("float32", self.device)
        if self.device == "cpu":  # rounding depends on the number of threads, and bytes must not depend on the machine
            torch.set_num_threads(1)

    def ping(self) -> None:
        """Return as soon as the actor has started."""

    def run(self, method: str, arguments: Sequence[Any]) -> Any:
        """Call the method of this name.

        Raises:
            InputError: The GPU's memory is too small.
        """
        try:
            return getattr(self, method)(*arguments)
        except torch.OutOfMemoryError as error:
            raise InputError(
                f"a GPU's memory is too small ({first_line(error)}): lower batch_size={self.config.batch_size}"
            ) from None

    def generate(self, shard: Shard) -> None:
        """Generate and write the candidates of a shard's captions."""
        config = self.config
        groups = self.pipe.candidates(
            [listed.caption for listed in shard.captions],
            seed=[listed.seed(config.seed) for listed in shard.captions],
            candidates=config.candidates,
            rank=config.rank,
            ranker=self.ranker,
            batch_size=config.batch_size,
            **config.sampling,
        )
        candidates = [
            CandidateImages(listed, [image for image, _ in group], [score for _, score in group])
            for listed, group in zip(shard.captions, groups, strict=True)
        ]
        made_by = self.expected.code | self._device_name
        with tasks.explain_disk_errors(self.output):
            image_shards.write(self.output, shard.index, candidates, config.candidates, made_by)

    def score(self, shard: Shard, name: str, kind: str) -> None:
        """Write the outputs of the scorer of this name for the shard's images of a kind."""
        images = list(image_shards.images(self.output, kind, [shard]))
        captions = [listed.caption for listed in shard.captions]
        scorer, size = self.scorers[name], self.config.batch_size
        rows = [scorer.rows(images[i : i + size], captions[i : i + size]) for i in range(0, len(images), size)]
        with tasks.explain_disk_errors(self.output):
            image_shards.write_scorer_rows(self.output, scorer.folder, kind, shard.index, torch.cat(rows))

    def reference_features(self, files: Sequence[ImageFile], name: str) -> Tensor:
        """Return the features (M, D) of M real images by the scorer of this name."""
        extractor = self.scorers[name].extractor
        assert extractor is not None
        return reference_features.features(files, extractor, self.pipe.size[0], self.config.batch_size)

    # --- Networks ---

    @cached_property
    def pipe(self) -> Emage:
        """The model. Raises InputError if its files are not those that the driver found."""
        pipe = Emage.from_pretrained(self.config.checkpoint, device=self.device, dtype=self.config.dtype)
        if self.config.compile:
            pipe.compile()
        if pipe.metadata["files"] != self.expected.checkpoint:
            raise InputError(f"{socket.gethostname()} has another model at {self.config.checkpoint} than the driver")
        return pipe

    @cached_property
    def ranker(self) -> ClipRanker | None:
        """The CLIP that ranks candidates, or None. Raises InputError if it is not the driver's."""
        ranker = load_ranker(self.config, self.device)
        if ranker and ranker.metadata != self.expected.ranker:
            raise InputError(f"{socket.gethostname()} has another CLIP ranker than the driver (rank_weights=FILE)")
        return ranker

    @cached_property
    def scorers(self) -> dict[str, Scorer]:
        """The scorers by name. Raises InputError if they are not the driver's."""
        expected = self.expected
        return scoring.load(self.config, self.pipe.tokenizer, self.device, expected.ranker, expected.scorers)

    @property
    def _device_name(self) -> dict[str, str]:
        return {"device": torch.cuda.get_device_name() if self.device == "cuda" else "cpu"}


def load_ranker(config: EvaluateConfig, device: str) -> ClipRanker | None:
    """Load the CLIP that ranks candidates; None if nothing is ranked by CLIP.

    Raises:
        InputError: Its weights are unavailable.
    """
    if config.rank != "clip" or config.candidates == 1:
        return None
    return ClipRanker(config.rank_weights, config.rank_model, device)
