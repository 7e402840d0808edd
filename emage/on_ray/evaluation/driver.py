"""Checkpoint + captions -> images -> report, on a pool of Ray actors.

output/captions.parquet   the captions that were drawn; can be given as captions= again
output/pictures/ ...      see emage.evaluation.image_shards: what is there is not made again
output/report.*           figures with all that made them; grid.png, best.png, worst.png
"""

import os
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

from emage.config import EvaluateConfig, nearest
from emage.evaluation import caption_list, image_shards, report, scoring
from emage.evaluation.caption_list import Task
from emage.evaluation.image_shards import BEST, Shard
from emage.evaluation.metrics import METRICS, image_files, reference_features
from emage.evaluation.metrics.features import Extractor
from emage.evaluation.metrics.image_files import Survey
from emage.evaluation.report import Report
from emage.evaluation.scoring import CLIP, ON_SETS, Judge
from emage.inference.pipeline import Emage
from emage.model import device_support, model_card
from emage.on_ray import launch, tracking
from emage.on_ray.evaluation import actor as drawer
from emage.on_ray.evaluation.actor import Networks
from emage.on_ray.evaluation.actor_pool import Part, Pool
from emage.utils import manifest, provenance
from emage.utils.errors import InputError
from emage.version import __version__

REFERENCE_PART = 512  # real images that an actor looks at in one call


class Job(NamedTuple):
    """What is known before anything is written."""

    config: EvaluateConfig  # with absolute paths
    output: Path
    listed: list[Task]
    parts: list[Shard]
    pipe: Emage
    judges: dict[str, Judge]
    networks: Networks
    made_by: dict[str, Any]  # all that the figures depend on


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Draws, measures and reports; returns the figures. Goes on where an earlier run of the same command stopped.

    Other metrics of the same images are measured without drawing again. Raises InputError.
    """
    job = _prepared(config)
    # The images depend on these alone: other judges may look at them later.
    manifest.claim_output(
        job.output, "evaluate", {key: job.made_by[key] for key in ("checkpoint", "captions", "drawing")}
    )
    with launch.alone(job.output):
        caption_list.write(job.output / caption_list.NAME, job.listed)
        real = _real(job)
        launch.start_ray()
        parent = job.pipe.facts.get("mlflow_run")
        with tracking.start(config.mlflow, stage="evaluate", settings=job.config, parent=parent) as run:
            pool = Pool(job.config, job.networks)
            speed = _draw(job, pool)
            job.made_by["drawn_by"] = image_shards.makers(job.output, job.parts)
            figures = _measure(job, pool, real)
            captions = [task.caption for task in job.listed]
            made = Report(figures, len(captions), job.pipe.num_cut(captions), job.made_by)
            grids = report.grids(job.output, job.parts, _scores(job))
            report.write(job.output, made, list(grids))
            run.metrics({"captions": made.captions, "captions_cut": made.captions_cut, **speed, **figures})
            for name, grid in grids.items():
                run.image(name, grid)
            for name in ("report.json", "report.md", caption_list.NAME):
                run.file(job.output / name)
    if figures and Path(job.config.checkpoint).is_dir():  # not where it is the hub's cache, which is no place to write
        _keep(job.pipe, job.config, len(captions), figures, job.made_by)
    print(f"{len(captions)} captions: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))
    for line in report.warnings(made):
        print(f"warning: {line}")
    print(f"report: {job.output / 'report.md'}")
    return figures


# --- Before the work --------------------------------------------------------------------------------------------------


def _prepared(config: EvaluateConfig) -> Job:
    """Reads, loads and fetches all that the work needs, so that what cannot be had is said now. Raises InputError."""
    config = _checked(config)
    listed = caption_list.read(config.captions, config.limit, config.seed)
    for metric in _on_captions(config):
        metric.check([task.caption for task in listed])
    pipe = Emage.from_pretrained(config.checkpoint, device="cpu")
    ranker = drawer.ranker(config, "cpu")
    chosen_by = ranker.facts if ranker else None
    judges = scoring.load(config, pipe.tokenizer, "cpu", chosen_by)
    made_by = _made_by(config, pipe, listed, chosen_by, judges)
    networks = Networks(pipe.facts["files"], chosen_by, made_by["judges"], _code())
    parts = image_shards.split(listed, config.candidates)
    return Job(config, Path(config.output), listed, parts, pipe, judges, networks, made_by)


def _on_captions(config: EvaluateConfig) -> list[ModuleType]:
    return [METRICS[name] for name in config.metrics if name in METRICS]


def _checked(config: EvaluateConfig) -> EvaluateConfig:
    """With absolute paths: actors run in a folder of Ray's. Raises InputError for what could not end well."""
    known = [*scoring.NAMES, *METRICS]
    for name in config.metrics:
        if name not in known:
            raise InputError(f"unknown metric {name!r}{nearest(name, known)} (metrics: {', '.join(known)})")
    for name in ("limit", "candidates", "batch_size", "num_actors"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)}: there must be at least one")
    if config.seed < 0 or config.gpus_per_actor < 0:
        raise InputError("seed and gpus_per_actor are 0 or more")
    if config.rank == "none":
        config = replace(config, candidates=1)  # nothing chooses among more
    sets = [name for name in config.metrics if name in ON_SETS]
    if sets and not config.judge.reference:
        raise InputError(f"metrics={sets[0]} compares with real images: judge.reference=FOLDER, or a .tar of them")
    if sets and config.judge.reference:
        image_files.find(config.judge.reference)  # names alone; they are looked at later
    if not config.gpus_per_actor:
        device_support.check_dtype(config.dtype, "cpu")
    launch.check_gpus(config.gpus_per_actor * config.num_actors, "gpus_per_actor")
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
    """A path that is there, absolute; names (of models, on hubs) as they are."""
    return os.path.abspath(path) if path is not None and Path(path).exists() else path


def _made_by(
    config: EvaluateConfig,
    pipe: Emage,
    listed: Sequence[Task],
    ranker: dict[str, Any] | None,
    judges: dict[str, Judge],
) -> dict[str, Any]:
    """All that the figures depend on. Images depend on `checkpoint`, `captions` and `drawing` alone."""
    drawing = {
        "seed": config.seed,
        "candidates": config.candidates,
        "rank": config.rank if config.candidates > 1 else "none",
        "ranker": ranker,
        "dtype": config.dtype,
        **({"compile": True} if config.compile else {}),
        "sampling": asdict(pipe.settings(**config.sampling)),
    }
    return {
        "checkpoint": {"files": pipe.facts["files"]},
        "captions": {"sha256": caption_list.fingerprint(listed)},
        "drawing": drawing,
        "judges": {name: judge.facts for name, judge in judges.items()},
        "measured_by": _code(),
    }


def _code() -> dict[str, str]:
    versions = {"emage": __version__, "torch": torch.__version__, "torch-fidelity": version("torch-fidelity")}
    return {**versions, "commit": provenance.commit()}


def _real(job: Job) -> Survey | None:
    """The reference images, where something is to be compared with them."""
    place = job.config.judge.reference
    if not place or not any(judge.extractor for judge in job.judges.values()):
        return None
    real = reference_features.find(place)
    job.made_by["reference"] = reference_features.facts(place, real, job.pipe.size[0])
    return real


# --- Stages -----------------------------------------------------------------------------------------------------------


def _draw(job: Job, pool: Pool) -> dict[str, float]:
    """Draws the shards that are not there yet; what that took."""
    sizes = [len(part.tasks) * job.config.candidates for part in job.parts]
    todo = [
        Part("draw", (part,), size)
        for part, size in zip(job.parts, sizes, strict=True)
        if not image_shards.is_done(job.output, part.index)
    ]
    drawn = sum(part.size for part in todo)
    started = time.monotonic()
    pool.run("draw", todo, done=sum(sizes) - drawn)
    seconds = time.monotonic() - started
    return {"drawing_seconds": seconds, "pictures_per_second": drawn / seconds} if todo else {}


def _measure(job: Job, pool: Pool, real: Survey | None) -> dict[str, float]:
    """Lets every judge look at every shard that it has not looked at yet; the figures of all metrics."""
    features = {
        name: _reference(pool, name, judge.extractor, real, job.pipe.size[0])
        for name, judge in job.judges.items()
        if judge.extractor and real
    }
    todo = [
        Part("judge", (part, name, kind), len(part.tasks))
        for name, judge in job.judges.items()
        for kind in image_shards.kinds(job.config.candidates)
        for part in job.parts
        if not image_shards.is_judged(job.output, judge.folder, kind, part.index)
    ]
    pool.run("judge", todo)
    figures = scoring.figures_of_sets(job.config, job.output, job.parts, job.judges, features)
    captions = [task.caption for task in job.listed]
    for metric in _on_captions(job.config):
        figures |= dict(metric.measure(image_shards.images(job.output, BEST, job.parts), captions))
    return figures


def _reference(pool: Pool, name: str, extractor: Extractor, real: Survey, side: int) -> Tensor:
    """(M, D) features of the real images: from the cache, or made on the actors and kept there."""
    key = reference_features.key(real, extractor, side)
    if (found := reference_features.load_cached(key)) is not None:
        return found
    files = [real.files[i : i + REFERENCE_PART] for i in range(0, len(real.files), REFERENCE_PART)]
    found = torch.cat(pool.run("reference", [Part("reference", (part, name), len(part)) for part in files]))
    reference_features.store(key, found)
    return found


def _scores(job: Job) -> list[float] | None:
    """What orders the images from best to worst: the CLIP that judges, else what ranked them, else nothing."""
    if CLIP in job.judges:
        return image_shards.judged(job.output, job.judges[CLIP].folder, BEST, job.parts)[:, 0].tolist()
    is_ranked = job.config.rank != "none" and job.config.candidates > 1
    return image_shards.best_scores(job.output, job.parts) if is_ranked else None


def _keep(pipe: Emage, config: EvaluateConfig, captions: int, figures: dict[str, float], made_by: dict) -> None:
    """Puts the figures beside the weights they belong to: into the checkpoint's manifest and model card."""
    settings = {key: made_by[key] for key in ("captions", "drawing", "judges", "reference") if key in made_by}
    record = {"file": Path(config.captions).name, "captions": captions, "figures": figures, "settings": settings}
    try:
        model_card.add_scores(config.checkpoint, pipe, record)
    except OSError as error:  # somebody else's folder; the report has the figures all the same
        print(f"{config.checkpoint}: the scores could not be added to the model card ({error})")
