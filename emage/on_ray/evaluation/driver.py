"""Checkpoint + captions -> images -> report, on a pool of Ray actors.

output/captions.parquet   the captions that were used; can be given as captions= again
output/pictures/ ...      see emage.evaluation.image_shards: shards that exist are not generated again
output/report.*           metrics with everything that they depend on; grid.png, best.png, worst.png
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from emage.config import EvaluateConfig, check
from emage.data.images.image_files import UsableImages
from emage.evaluation import caption_list, image_shards, reference_features, report, scoring
from emage.evaluation.caption_list import ListedCaption
from emage.evaluation.image_shards import BEST, Shard
from emage.evaluation.metrics import set_metrics
from emage.evaluation.report import Report
from emage.evaluation.scoring import CLIP, SET_METRIC_NETWORKS, Scorer
from emage.inference.pipeline import Emage
from emage.model import device_support, model_card
from emage.on_ray import launch, tracking
from emage.on_ray.evaluation import stages
from emage.on_ray.evaluation.actor import ExpectedWeights, load_ranker
from emage.on_ray.evaluation.actor_pool import ActorPool
from emage.utils import provenance
from emage.version import __version__


@dataclass(frozen=True)
class Inputs:
    """Everything that an evaluation has checked and loaded before it writes anything."""

    config: EvaluateConfig  # with absolute paths: actors run in a folder of Ray's
    output: Path
    identity: dict[str, Any]  # of the images: other metrics of them may be computed later
    captions: list[ListedCaption]
    shards: list[Shard]  # of the captions
    pipe: Emage
    scorers: dict[str, Scorer]
    expected: ExpectedWeights  # that every actor must find on its node
    reference: UsableImages | None  # the real images; None: no metric compares with them
    made_by: dict[str, Any]  # everything that the metrics depend on


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Generate, score and report; resume where an earlier run of the same command stopped.

    Other metrics of the same images are computed without generating them again.

    Returns:
        Metric name -> value, which is printed as well.

    Raises:
        InputError: Settings, captions, checkpoint, networks, reference images or output are not usable.
    """
    validate(config)
    inputs = resolve(config)
    print_inputs(inputs)
    with launch.output_run(inputs, "evaluate", parent=inputs.pipe.metadata.get("mlflow_run")) as tracked:
        made = run(inputs, tracked)
    print_report(made, inputs.output)
    return made.values


def validate(config: EvaluateConfig) -> None:
    """Raise InputError for settings that no machine could run."""
    check(config)


def resolve(config: EvaluateConfig) -> Inputs:
    """Check the machine; read, load and fetch all that the work needs. Raise InputError for what is not available."""
    config = _with_absolute_paths(config)
    if config.rank == "none":
        config = replace(config, candidates=1)  # without ranking, only the first is used
    _check_machine(config)
    captions = caption_list.read(config.captions, config.limit, config.seed)
    compared = [name for name in config.metrics if name in SET_METRIC_NETWORKS]
    listed = reference_features.list_images(config.judge, captions) if compared else None  # before networks are loaded
    if listed:
        set_metrics.check_counts(compared, len(captions), len(listed.files))
    for metric in stages.caption_metrics(config):
        metric.check([one.caption for one in captions])
    pipe = Emage.from_pretrained(config.checkpoint, device="cpu")
    ranker = load_ranker(config, "cpu")
    ranked_by = ranker.metadata if ranker else None
    scorers = scoring.load(config, pipe.tokenizer, "cpu", ranked_by)
    made_by = _made_by(config, pipe, captions, ranked_by, scorers)
    output, identity = Path(config.output), {key: made_by[key] for key in ("checkpoint", "captions", "drawing")}
    launch.check_output(output, "evaluate", identity)
    reference = reference_features.check_images(config.judge, listed) if listed else None
    if reference:
        set_metrics.check_counts(compared, len(captions), len(reference.files))
        made_by["reference"] = reference_features.describe(config.judge, reference, pipe.size[0])
    expected = ExpectedWeights(pipe.metadata["files"], ranked_by, made_by["judges"], _code())
    shards = image_shards.split(captions, config.candidates)
    return Inputs(config, output, identity, captions, shards, pipe, scorers, expected, reference, made_by)


def run(inputs: Inputs, tracked: tracking.TrackedRun) -> Report:
    """Generate and score; write the report into the output, the MLflow run and the checkpoint."""
    config, output, shards = inputs.config, inputs.output, inputs.shards
    caption_list.write(output / caption_list.NAME, inputs.captions)
    pool = ActorPool(config, inputs.expected)
    speed = stages.generate(config, output, shards, pool)
    metrics = stages.score(config, output, shards, inputs.scorers, pool, inputs.reference, inputs.pipe.size[0])
    captions = [listed.caption for listed in inputs.captions]
    made_by = inputs.made_by | {"drawn_by": image_shards.generated_by(output, shards)}
    made = Report(metrics, len(captions), inputs.pipe.num_truncated(captions), made_by)
    grids = report.grids(output, shards, _sort_scores(inputs))
    report.write(output, made, list(grids))
    tracked.metrics({"captions": made.num_captions, "captions_cut": made.num_truncated, **speed, **metrics})
    for name, grid in grids.items():
        tracked.image(name, grid)
    for name in ("report.json", "report.md", caption_list.NAME):
        tracked.file(output / name)
    if metrics and Path(config.checkpoint).is_dir():  # not the hub's cache, which is not to be written
        add_to_checkpoint(inputs.pipe, config, made)
    return made


def print_inputs(inputs: Inputs) -> None:
    """Print which real images are used, and the warnings that the numbers of images give, before any work starts."""
    if inputs.reference:
        print(f"judge.reference: {inputs.reference.summary()}")
    for line in report.warnings(Report({}, len(inputs.captions), 0, inputs.made_by)):
        print(f"warning: {line}", flush=True)


def print_report(made: Report, output: Path) -> None:
    """Print the metrics, the warnings and the path of the report."""
    print(f"{made.num_captions} captions: " + ", ".join(f"{name} {value:.4g}" for name, value in made.values.items()))
    for line in report.warnings(made):
        print(f"warning: {line}")
    print(f"report: {output / 'report.md'}", flush=True)


# --- Inputs -----------------------------------------------------------------------------------------------------------


def _with_absolute_paths(config: EvaluateConfig) -> EvaluateConfig:
    judge = replace(
        config.judge,
        reference=_absolute(config.judge.reference),
        inception=_absolute(config.judge.inception),
        clip_model=_absolute(config.judge.clip_model),
        clip_weights=_absolute(config.judge.clip_weights),
    )
    return replace(
        config,
        judge=judge,
        checkpoint=_absolute(config.checkpoint),
        output=os.path.abspath(config.output),
        rank_model=_absolute(config.rank_model),
        rank_weights=_absolute(config.rank_weights),
    )


def _absolute(path: str | None) -> str | None:
    """Return a path that exists as an absolute one; names (of models, on hubs) as they are."""
    return os.path.abspath(path) if path is not None and Path(path).exists() else path


def _check_machine(config: EvaluateConfig) -> None:
    if not config.gpus_per_actor:
        device_support.check_dtype(config.dtype, "cpu")
    launch.check_gpus(config.gpus_per_actor * config.num_actors, "gpus_per_actor")


def _made_by(
    config: EvaluateConfig,
    pipe: Emage,
    captions: Sequence[ListedCaption],
    ranked_by: dict[str, Any] | None,
    scorers: dict[str, Scorer],
) -> dict[str, Any]:
    """Return everything that the metrics depend on. Images depend on `checkpoint`, `captions` and `drawing` alone."""
    generated_with = {
        "seed": config.seed,
        "candidates": config.candidates,
        "rank": config.rank if config.candidates > 1 else "none",
        "ranker": ranked_by,
        "dtype": config.dtype,
        **({"compile": True} if config.compile else {}),
        "sampling": asdict(pipe.settings(**config.sampling)),
    }
    return {
        "checkpoint": {"files": pipe.metadata["files"]},
        "captions": {"sha256": caption_list.fingerprint(captions)},
        "drawing": generated_with,
        "judges": {name: scorer.metadata for name, scorer in scorers.items()},
        "measured_by": _code(),
    }


def _code() -> dict[str, str]:
    versions = {"emage": __version__, "torch": torch.__version__, "torch-fidelity": version("torch-fidelity")}
    return {**versions, "commit": provenance.commit()}


# --- Report -----------------------------------------------------------------------------------------------------------


def _sort_scores(inputs: Inputs) -> list[float] | None:
    """Return the scores that sort images from best to worst: of the CLIP scorer, else of the ranking, else None."""
    if CLIP in inputs.scorers:
        folder = inputs.scorers[CLIP].folder
        return image_shards.read_scorer_rows(inputs.output, folder, BEST, inputs.shards)[:, 0].tolist()
    is_ranked = inputs.config.rank != "none" and inputs.config.candidates > 1
    return image_shards.best_scores(inputs.output, inputs.shards) if is_ranked else None


def add_to_checkpoint(pipe: Emage, config: EvaluateConfig, made: Report) -> None:
    """Add the metrics to the manifest and the model card of the checkpoint that they belong to."""
    settings = {key: made.made_by[key] for key in ("captions", "drawing", "judges", "reference") if key in made.made_by}
    record = {
        "file": Path(config.captions).name,
        "captions": made.num_captions,
        "figures": made.values,
        "settings": settings,
    }
    try:
        model_card.add_scores(config.checkpoint, pipe, record)
    except OSError as error:  # a folder of another user; the metrics are in the report
        print(f"{config.checkpoint}: the scores could not be added to the model card ({error})")
