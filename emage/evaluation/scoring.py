"""Scorers, and the metric values that follow from their outputs.

A scorer is a network that turns images and captions into one row of numbers per image: features, or a similarity. Rows
are computed on any machine and stored (emage.evaluation.image_shards); metric values are computed from all of them in
one process, so that they do not depend on the number of workers.

Letters: B batch, H W image, N generated images, M real images, D numbers per image.
"""

import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emage.config import EvaluateConfig
from emage.evaluation import image_shards
from emage.evaluation.image_shards import Shard
from emage.evaluation.metrics import set_metrics
from emage.evaluation.metrics.clip_score import ClipScore
from emage.evaluation.networks import features
from emage.evaluation.networks.features import FeatureExtractor, TokenizerFeatures
from emage.utils import manifest
from emage.utils.errors import InputError

FeatureNetwork = Literal["inception", "tokenizer"]

# Metrics over two sets of images, and the network whose features they compare.
SET_METRIC_NETWORKS: dict[str, FeatureNetwork] = {
    "fid": "inception",
    "kid": "inception",
    "precision_recall": "inception",
    "frechet": "tokenizer",
}
CLIP = "clip_score"
NETWORK_METRICS = (*SET_METRIC_NETWORKS, CLIP)


class Scorer(NamedTuple):
    """A network that scores images.

    Args:
        name: Name of the network.
        metadata: Network and weights, for reports.
        rows: Turns n images and their captions into (n, D) float32.
        extractor: The network, if its rows are features by which sets are compared.
    """

    name: str
    metadata: dict[str, Any]
    rows: Callable[[Sequence[Image.Image], Sequence[str]], Tensor]
    extractor: FeatureExtractor | None = None

    @property
    def folder(self) -> str:
        """Folder of its rows below judged/. Other weights have another folder."""
        return f"{self.name}-{manifest.fingerprint(self.metadata)[:12]}"


def load(
    config: EvaluateConfig,
    tokenizer: Any,
    device: str,
    ranker: dict[str, Any] | None,
    expected: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Scorer]:
    """Load the scorers that `config.metrics` needs.

    Args:
        config: Names metrics and weights.
        tokenizer: The model's tokenizer; it replaces Inception if its weights are unavailable.
        device: Where the networks run.
        ranker: Metadata of the CLIP that ranks candidates, which must not score them.
        expected: Metadata that the scorers must have, as the driver found it. None: any.

    Returns:
        Scorers by "inception", "tokenizer" and "clip_score".

    Raises:
        InputError: A network is unavailable, or its metadata differs from `expected`.
    """
    found: dict[str, Scorer] = {}
    needed: list[FeatureNetwork] = [SET_METRIC_NETWORKS[name] for name in config.metrics if name in SET_METRIC_NETWORKS]
    for wanted in dict.fromkeys(needed):
        is_replaced = expected is not None and expected[wanted]["mode"] == TokenizerFeatures.name
        network: FeatureNetwork = "tokenizer" if is_replaced else wanted
        extractor = features.load(
            network,
            mode=config.judge.mode,
            inception_file=config.judge.inception,
            tokenizer=tokenizer,
            device=device,
        )
        found[wanted] = Scorer(extractor.name, extractor.metadata, _rows_of(extractor), extractor)
    if CLIP in config.metrics:
        weights, model = config.judge.clip_weights, config.judge.clip_model
        clip = ClipScore(weights, model, device, ranker=ranker, setting="judge.clip_weights")
        found[CLIP] = Scorer(CLIP, clip.metadata, lambda images, captions: clip.score(images, captions)[1][:, None])
    if expected is not None and expected != {name: scorer.metadata for name, scorer in found.items()}:
        raise InputError(
            f"{socket.gethostname()} has other weights of the metric networks than the driver: put the files "
            "where every node can read them (judge.inception=FILE, judge.clip_weights=FILE)"
        )
    return found


def metric_values(
    config: EvaluateConfig,
    output: Path,
    shards: Sequence[Shard],
    scorers: dict[str, Scorer],
    reference: dict[str, Tensor],
) -> dict[str, float]:
    """Compute the metrics of the best candidates and, with names ending in `_first`, of the unranked first ones.

    Args:
        config: Names the metrics and the number of candidates.
        output: Folder of the evaluation, with the scorers' rows of all shards.
        shards: All shards.
        scorers: As `load` returns them.
        reference: Features (M, D) of the real images, by scorer.
    """
    values: dict[str, float] = {}
    for kind in image_shards.kinds(config.candidates):
        suffix = "" if kind == image_shards.BEST else "_first"
        for name, scorer in scorers.items():
            rows = image_shards.read_scorer_rows(output, scorer.folder, kind, shards)  #  (N, D)
            if scorer.extractor is None:
                values[CLIP + suffix] = float(rows.double().mean())
                continue
            requested = [metric for metric in config.metrics if SET_METRIC_NETWORKS.get(metric) == name]
            # "fid" and "frechet" are one formula with the features of different networks.
            metrics = ["fid" if metric == "frechet" else metric for metric in requested]
            compared = set_metrics.compare(metrics, rows, reference[name], scorer.extractor)
            values |= {metric + suffix: value for metric, value in compared.items()}
    return values


def _rows_of(extractor: FeatureExtractor) -> Callable[[Sequence[Image.Image], Sequence[str]], Tensor]:
    """Return the extractor as a function of images and captions; it ignores the captions."""

    def rows(images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        pixels = np.stack([np.asarray(image) for image in images])  #  (B, H, W, 3)
        return extractor(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    return rows
