"""Settings of evaluation: checkpoint and captions -> images and a report."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

from omegaconf import MISSING

from emage.config.environment import MLflowConfig
from emage.config.fields import MAX_SEED, group, setting
from emage.config.model import Dtype, SamplingConfig

Rank = Literal["none", "likelihood", "clip"]
FidMode = Literal["torch-fidelity", "pytorch-fid", "clean"]
ReferenceImages = Literal["all", "captioned"]
SetMetric = Literal["fid", "kid", "precision_recall", "frechet"]  # metrics that compare a set of images with real ones
Metric = Literal["fid", "kid", "precision_recall", "frechet", "clip_score", "shapes"]


@dataclass(frozen=True)
class JudgeConfig:
    """The real images that generated ones are compared with, and the networks that compare them."""

    reference: str | None = setting(
        None, "Real images: a folder, .tar or .parquet; fid, kid, precision_recall and frechet need it.", is_path=True
    )
    reference_images: ReferenceImages = setting(
        "all",
        "Which of these images are compared with: all, or those of the selected captions (the paper's N captioned "
        "images), which COCO's json or a column `image` names.",
    )
    mode: FidMode = setting(
        "torch-fidelity", "How images are resized for Inception; FIDs of two modes cannot be compared."
    )
    inception: str | None = setting(
        None, "Weights of Inception, a file. null: from the cache, or downloaded.", is_path=True
    )
    clip_model: str = setting(
        "ViT-B-32-quickgelu",
        "open_clip model of metrics=[clip_score]; not the one that ranks candidates.",
        is_path=True,
    )
    clip_weights: str | None = setting(
        None, "Weights of that model: a file, or a name that open_clip publishes. null: OpenAI's.", is_path=True
    )


@dataclass(frozen=True)
class EvaluateConfig:
    """Checkpoint + captions -> images, ranked -> report (pipelines/evaluate.py)."""

    checkpoint: str = setting(MISSING, "Checkpoint: a folder, `demo`, or a hub id.", is_path=True)
    captions: str = setting(
        MISSING,
        "Captions: parquet, csv, tsv or jsonl (column `caption`), COCO's json, or one per line in .txt.",
        is_path=True,
    )
    output: str = setting(MISSING, "Folder for images and the report.", is_folder=True)
    limit: int = setting(
        30_000,
        "Captions that are used, selected at random by `seed` if the file has more.",
        unit="captions",
        minimum=1,
        source="paper, Sec. 4",
    )
    seed: int = setting(0, "Seed of the selection of captions and of the images.", minimum=0, maximum=MAX_SEED)
    candidates: int = setting(
        16,
        "Images generated per caption, of which the best by `rank` is kept.",
        unit="images",
        minimum=1,
        source="paper, Sec. 4",
    )
    rank: Rank = setting(
        "clip",
        "How the best candidate is chosen: CLIP similarity, the model's own likelihood, or none (one candidate).",
        source="paper, Sec. 4",
    )
    rank_model: str = setting(
        "ViT-L-14-quickgelu", "open_clip model that ranks candidates with rank=clip.", is_path=True
    )
    rank_weights: str | None = setting(
        None, "Weights of that model: a file, or a name that open_clip publishes. null: OpenAI's.", is_path=True
    )
    metrics: tuple[Metric, ...] = setting((), "Metrics of the report; those that are not in the list are not computed.")
    judge: JudgeConfig = group(JudgeConfig)
    batch_size: int = setting(16, "Images generated at a time by one actor.", unit="images", minimum=1)
    num_actors: int = setting(1, "Ray actors that generate and score, each with a model.", unit="actors", minimum=1)
    gpus_per_actor: float = setting(1.0, "GPUs per actor; 0: on CPUs.", unit="GPUs", minimum=0)
    dtype: Dtype = setting("float32", "Arithmetic of the network.")
    compile: bool = setting(
        False, "Compile the network with torch.compile, which takes a minute at each actor's start."
    )
    sampling: dict[str, Any] = setting(
        dict,
        "Sampling settings in place of the checkpoint's own, for example sampling.steps=8.",
        entries=SamplingConfig,
    )
    mlflow: MLflowConfig = group(MLflowConfig)

    def problems(self, prefix: str = "") -> Iterator[str]:
        """Yield a message if a metric compares with real images and none are given."""
        compared = [metric for metric in self.metrics if metric in get_args(SetMetric)]
        if compared and not self.judge.reference:
            yield (
                f"{prefix}metrics={compared[0]} compares with real images: {prefix}judge.reference=FOLDER, "
                "or a .tar of them"
            )
