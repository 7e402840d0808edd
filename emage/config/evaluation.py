"""Settings of evaluation: checkpoint and captions -> images and a report."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from emage.config.choices import Dtype, FidMode, Rank
from emage.config.tracking import MLflowConfig


@dataclass(frozen=True)
class JudgeConfig:
    """What the images are compared with, and by which networks."""

    reference: str | None = None  # real images: a folder or a .tar
    mode: FidMode = "torch-fidelity"  # how images reach Inception; FIDs of two modes do not compare
    inception: str | None = None  # its weights: a file; none: from the cache, or fetched
    clip_model: str = "ViT-B-32-quickgelu"  # of metrics=clip_score: another than the one that ranks
    clip_weights: str | None = None  # a file, or a name that open_clip publishes; none: OpenAI's


@dataclass(frozen=True)
class EvaluateConfig:
    """Checkpoint + captions -> images, ranked -> report (pipelines/evaluate.py)."""

    checkpoint: str = MISSING
    captions: str = MISSING  # parquet, csv, tsv, jsonl (column `caption`), COCO's json, or one caption a line in .txt
    output: str = MISSING
    limit: int = 30_000  # captions, drawn by `seed` where the file holds more
    seed: int = 0
    candidates: int = 16  # images a caption, the best by `rank` is kept
    rank: Rank = "clip"
    rank_model: str = "ViT-L-14-quickgelu"  # an open_clip model
    rank_weights: str | None = None  # a file, or a name that open_clip publishes; none: OpenAI's
    metrics: tuple[str, ...] = ()  # fid, kid, precision_recall, frechet, clip_score, shapes
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    batch_size: int = 16  # images at a time
    num_actors: int = 1
    gpus_per_actor: float = 1.0
    dtype: Dtype = "float32"
    compile: bool = False  # fuses the drawing with torch.compile: a minute at each actor's start
    sampling: dict[str, Any] = field(default_factory=dict)  # over the checkpoint's own settings: sampling.steps=8
    mlflow: MLflowConfig = field(default_factory=MLflowConfig)
