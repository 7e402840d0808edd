"""What networks say of the drawn images, and the figures that follow.

A judge turns images and captions into rows of numbers, one an image: features, or a similarity. Rows are made
anywhere and kept (emage.evaluation.image_shards); figures are made of all of them in one place, so that they do not
depend on how many workers there were.
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
from emage.evaluation.metrics import features, set_metrics
from emage.evaluation.metrics.clip_score import ClipScore
from emage.evaluation.metrics.features import Extractor, TokenizerFeatures
from emage.utils import manifest
from emage.utils.errors import InputError

Network = Literal["inception", "tokenizer"]

# Over two sets of images, by metric: the network that is asked for.
ON_SETS: dict[str, Network] = {
    "fid": "inception",
    "kid": "inception",
    "precision_recall": "inception",
    "frechet": "tokenizer",
}
CLIP = "clip_score"
NAMES = (*ON_SETS, CLIP)


class Judge(NamedTuple):
    name: str  # of its network
    facts: dict[str, Any]  # network and weights
    rows: Callable[[Sequence[Image.Image], Sequence[str]], Tensor]  # n images and captions -> (n, D) float32
    extractor: Extractor | None = None  # of the judges that compare sets

    @property
    def folder(self) -> str:
        """Where its rows are kept: other weights are another folder."""
        return f"{self.name}-{manifest.fingerprint(self.facts)[:12]}"


def load(
    config: EvaluateConfig,
    tokenizer: Any,
    device: str,
    ranker: dict[str, Any] | None,
    expected: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Judge]:
    """The judges that the metrics ask for, by "inception" (or what stands in for it), "tokenizer", "clip_score".

    `ranker`: the facts of the CLIP that ranked, which cannot judge. `expected`: the facts that the judges must have, as
    a driver found them. Raises InputError where a judge cannot be had, or has others.
    """
    found: dict[str, Judge] = {}
    asked: list[Network] = [ON_SETS[name] for name in config.metrics if name in ON_SETS]
    for wanted in dict.fromkeys(asked):
        stands_in = expected is not None and expected[wanted]["mode"] == TokenizerFeatures.name
        network: Network = "tokenizer" if stands_in else wanted
        extractor = features.load(
            network,
            mode=config.judge.mode,
            inception_file=config.judge.inception,
            tokenizer=tokenizer,
            device=device,
        )
        found[wanted] = Judge(extractor.name, extractor.facts, _on_pixels(extractor), extractor)
    if CLIP in config.metrics:
        weights, model = config.judge.clip_weights, config.judge.clip_model
        clip = ClipScore(weights, model, device, ranker=ranker, setting="judge.clip_weights")
        found[CLIP] = Judge(CLIP, clip.facts, lambda images, captions: clip.score(images, captions)[1][:, None])
    if expected is not None and expected != {name: judge.facts for name, judge in found.items()}:
        raise InputError(
            f"{socket.gethostname()} has other weights of the networks that judge than the driver: put the files "
            "where every node sees them (judge.inception=FILE, judge.clip_weights=FILE)"
        )
    return found


def figures_of_sets(
    config: EvaluateConfig, output: Path, parts: Sequence[Shard], judges: dict[str, Judge], real: dict[str, Tensor]
) -> dict[str, float]:
    """Of the kept images and, with `_first` at the end, of the un-ranked first candidates.

    `real`: (M, D) features of the reference images, by judge.
    """
    found: dict[str, float] = {}
    for kind in image_shards.kinds(config.candidates):
        end = "" if kind == image_shards.BEST else "_first"
        for name, judge in judges.items():
            rows = image_shards.judged(output, judge.folder, kind, parts)  #  (N, D)
            if judge.extractor is None:
                found[CLIP + end] = float(rows.double().mean())
                continue
            asked = [metric for metric in config.metrics if ON_SETS.get(metric) == name]
            metrics = ["fid" if metric == "frechet" else metric for metric in asked]  # one formula, two networks
            compared = set_metrics.compare(metrics, rows, real[name], judge.extractor)
            found |= {figure + end: value for figure, value in compared.items()}
    return found


def _on_pixels(extractor: Extractor) -> Callable[[Sequence[Image.Image], Sequence[str]], Tensor]:
    """The extractor as a judge, which captions do not concern."""

    def rows(images: Sequence[Image.Image], captions: Sequence[str]) -> Tensor:
        pixels = np.stack([np.asarray(image) for image in images])  #  (B, H, W, 3)
        return extractor(torch.from_numpy(pixels).permute(0, 3, 1, 2))

    return rows
