"""The two stages of an evaluation, generate and score, on a pool of actors. What is on disk is not made again.

Letters: M reference images, D features.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from emage.config import EvaluateConfig
from emage.evaluation import image_shards, scoring
from emage.evaluation.image_shards import BEST, Shard
from emage.evaluation.metrics import METRICS, reference_features
from emage.evaluation.metrics.features import Extractor
from emage.evaluation.metrics.image_files import Survey
from emage.evaluation.scoring import Judge
from emage.on_ray.evaluation.actor_pool import Part, Pool

REFERENCE_PART = 512  # reference images that an actor reads in one call


def caption_metrics(config: EvaluateConfig) -> list[ModuleType]:
    """Return the metrics that compare each image with its caption and need no network."""
    return [METRICS[name] for name in config.metrics if name in METRICS]


def generate(config: EvaluateConfig, output: Path, shards: Sequence[Shard], pool: Pool) -> dict[str, float]:
    """Generate the shards of images that are missing; return seconds and speed, nothing if all were there."""
    sizes = [len(shard.tasks) * config.candidates for shard in shards]
    todo = [
        Part("draw", (shard,), size)
        for shard, size in zip(shards, sizes, strict=True)
        if not image_shards.is_done(output, shard.index)
    ]
    generated = sum(part.size for part in todo)
    started = time.monotonic()
    pool.run("draw", todo, done=sum(sizes) - generated)
    seconds = time.monotonic() - started
    return {"drawing_seconds": seconds, "pictures_per_second": generated / seconds} if todo else {}


def score(
    config: EvaluateConfig,
    output: Path,
    shards: Sequence[Shard],
    judges: dict[str, Judge],
    pool: Pool,
    reference: Survey | None,
    side: int,
) -> dict[str, float]:
    """Score every shard that is not scored yet; return metric name -> value.

    Args:
        config: The evaluation's settings.
        output: Folder of the evaluation, with all images in it.
        shards: The captions and their seeds, in shards.
        judges: Scorers by name (`scoring.load`).
        pool: The actors.
        reference: The real images, None if no metric compares with them.
        side: Of the generated images, in pixels.
    """
    features = {
        name: _features_of_reference(pool, name, judge.extractor, reference, side)
        for name, judge in judges.items()
        if judge.extractor and reference
    }
    todo = [
        Part("judge", (shard, name, kind), len(shard.tasks))
        for name, judge in judges.items()
        for kind in image_shards.kinds(config.candidates)
        for shard in shards
        if not image_shards.is_judged(output, judge.folder, kind, shard.index)
    ]
    pool.run("judge", todo)
    metrics = scoring.figures_of_sets(config, output, shards, judges, features)
    captions = [task.caption for shard in shards for task in shard.tasks]
    for metric in caption_metrics(config):
        metrics |= dict(metric.measure(image_shards.images(output, BEST, shards), captions))
    return metrics


def _features_of_reference(pool: Pool, name: str, extractor: Extractor, reference: Survey, side: int) -> Tensor:
    """Return (M, D) features of the reference images: from the cache, or made by the actors and stored there."""
    key = reference_features.key(reference, extractor, side)
    if (found := reference_features.load_cached(key)) is not None:
        return found
    files = [reference.files[i : i + REFERENCE_PART] for i in range(0, len(reference.files), REFERENCE_PART)]
    found = torch.cat(pool.run("reference", [Part("reference", (part, name), len(part)) for part in files]))
    reference_features.store(key, found)
    return found
