"""The two stages of an evaluation, generate and score, on a pool of actors. Shards that exist are not made again.

Letters: M reference images, D features.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from emage.config import EvaluateConfig
from emage.data.images.image_files import UsableImages
from emage.evaluation import image_shards, reference_features, scoring
from emage.evaluation.image_shards import BEST, Shard
from emage.evaluation.metrics import METRICS
from emage.evaluation.networks.features import FeatureExtractor
from emage.evaluation.scoring import Scorer
from emage.on_ray.evaluation.actor_pool import ActorPool, WorkItem

IMAGES_PER_CALL = 512  # reference images per work item


def caption_metrics(config: EvaluateConfig) -> list[ModuleType]:
    """Return the metrics that compare each image with its caption and need no network."""
    return [METRICS[name] for name in config.metrics if name in METRICS]


def generate(config: EvaluateConfig, output: Path, shards: Sequence[Shard], pool: ActorPool) -> dict[str, float]:
    """Generate the shards of images that are missing; return seconds and images per second, {} if none was missing."""
    sizes = [len(shard.captions) * config.candidates for shard in shards]
    todo = [
        WorkItem("generate", (shard,), size)
        for shard, size in zip(shards, sizes, strict=True)
        if not image_shards.is_written(output, shard.index)
    ]
    generated = sum(item.size for item in todo)
    started = time.monotonic()
    pool.run("generate", todo, done=sum(sizes) - generated)
    seconds = time.monotonic() - started
    return {"drawing_seconds": seconds, "pictures_per_second": generated / seconds} if todo else {}


def score(
    config: EvaluateConfig,
    output: Path,
    shards: Sequence[Shard],
    scorers: dict[str, Scorer],
    pool: ActorPool,
    reference: UsableImages | None,
    side: int,
) -> dict[str, float]:
    """Score every shard that is not scored yet; return metric name -> value.

    Args:
        config: The evaluation's settings.
        output: Folder of the evaluation, with all images in it.
        shards: The captions and their seeds, in shards.
        scorers: Scorers by name (`scoring.load`).
        pool: The actors.
        reference: The real images, None if no metric compares with them.
        side: Of the generated images, in pixels.
    """
    features = {
        name: _features_of_reference(pool, name, scorer.extractor, reference, side)
        for name, scorer in scorers.items()
        if scorer.extractor and reference
    }
    todo = [
        WorkItem("score", (shard, name, kind), len(shard.captions))
        for name, scorer in scorers.items()
        for kind in image_shards.kinds(config.candidates)
        for shard in shards
        if not image_shards.is_scored(output, scorer.folder, kind, shard.index)
    ]
    pool.run("score", todo)
    metrics = scoring.metric_values(config, output, shards, scorers, features)
    captions = [listed.caption for shard in shards for listed in shard.captions]
    for metric in caption_metrics(config):
        metrics |= dict(metric.measure(image_shards.images(output, BEST, shards), captions))
    return metrics


def _features_of_reference(
    pool: ActorPool, name: str, extractor: FeatureExtractor, reference: UsableImages, side: int
) -> Tensor:
    """Return the features (M, D) of the reference images: from the cache, or computed by actors and cached."""
    key = reference_features.key(reference, extractor, side)
    if (found := reference_features.load_cached(key)) is not None:
        return found
    chunks = [reference.files[i : i + IMAGES_PER_CALL] for i in range(0, len(reference.files), IMAGES_PER_CALL)]
    items = [WorkItem("reference_features", (files, name), len(files)) for files in chunks]
    found = torch.cat(pool.run("reference", items))
    reference_features.store(key, found)
    return found
