"""Checkpoint + captions -> pictures -> report, on a pool of Ray actors.

output/pictures/   one PNG a caption, the best of its candidates
output/chunks/     scores of a chunk of captions; a chunk that has one is not drawn again
output/report.*    figures with the settings that made them; grid.png
"""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.util import ActorPool
from tqdm import tqdm

from emage import manifest, model_card
from emage.config import EvaluateConfig, nearest
from emage.errors import InputError
from emage.evaluation import CHUNK, Task, picture_path, read_picture, read_tasks, write_report
from emage.metrics import METRICS
from emage.on_ray import launch, tracking
from emage.pipeline import Emage
from emage.ranking import ClipRanker


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Draws, measures and reports; returns the figures. Goes on where an earlier run of the same command stopped."""
    for name in config.metrics:
        if name not in METRICS:
            raise InputError(f"unknown metric {name!r}{nearest(name, list(METRICS))} (metrics: {', '.join(METRICS)})")
    for name in ("limit", "candidates", "batch_size", "num_actors"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)}: there must be at least one")
    launch.check_gpus(config.gpus_per_actor * config.num_actors, "gpus_per_actor")
    output = Path(config.output).absolute()
    # Actors run in a folder of Ray's: what is relative to this one must not be.
    weights = config.rank_weights and os.path.abspath(config.rank_weights)
    checkpoint = os.path.abspath(config.checkpoint) if Path(config.checkpoint).exists() else config.checkpoint
    config = replace(config, output=str(output), checkpoint=checkpoint, rank_weights=weights)
    tasks = read_tasks(config.captions, config.limit, config.seed)
    pipe = Emage.from_pretrained(config.checkpoint, device="cpu")  # refuses a bad folder before anything is written
    settings = asdict(pipe.settings(**config.sampling))
    identity = {
        "checkpoint": pipe.facts["files"],
        "captions": manifest.fingerprint([asdict(task) for task in tasks]),
        "seed": config.seed,
        "candidates": config.candidates,
        "rank": config.rank,
        "dtype": config.dtype,
        "sampling": settings,
    }
    if config.rank == "clip" and config.candidates > 1:
        ClipRanker(config.rank_weights)  # fetches the weights here, once, or says what to do
    for name in config.metrics:
        METRICS[name].check([task.caption for task in tasks])
    manifest.claim(output, "evaluate", identity)
    (output / "pictures").mkdir(exist_ok=True)
    (output / "chunks").mkdir(exist_ok=True)
    launch.start_ray()
    with tracking.start(config.mlflow, stage="evaluate", settings=config) as run:
        scores = _draw(config, output, tasks)
        figures: dict[str, float] = {}
        for name in config.metrics:
            images = (read_picture(output, task) for task in tasks)
            figures |= dict(METRICS[name].measure(images, [task.caption for task in tasks]))
        cut = pipe.num_cut([task.caption for task in tasks])
        grid = write_report(output, tasks, scores, figures, identity, cut)
        run.metrics({"captions": len(tasks), "captions_cut": cut, **figures})
        run.picture("grid.png", grid)
        run.file(output / "report.json")
        run.file(output / "report.md")
    if figures and Path(checkpoint).is_dir():  # not where it is the hub's cache, which is no place to write
        _keep(pipe, config, len(tasks), figures, identity)
    print(f"{len(tasks)} captions: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    print(f"report: {output / 'report.md'}")
    return figures


def _keep(pipe: Emage, config: EvaluateConfig, captions: int, figures: dict[str, float], identity: dict) -> None:
    """Puts the figures beside the weights they belong to: into the checkpoint's manifest and model card."""
    settings = {key: value for key, value in identity.items() if key != "checkpoint"}
    record = {"file": Path(config.captions).name, "captions": captions, "figures": figures, "settings": settings}
    try:
        model_card.add_scores(config.checkpoint, pipe, record)
    except OSError as error:  # somebody else's folder; the report has the figures all the same
        print(f"{config.checkpoint}: the scores could not be added to the model card ({error})")


def _draw(config: EvaluateConfig, output: Path, tasks: list[Task]) -> list[float]:
    """Draws what is not there yet; the kept pictures' scores in the tasks' order."""
    chunks = [tasks[i : i + CHUNK] for i in range(0, len(tasks), CHUNK)]
    files = [output / "chunks" / f"{i:06d}.json" for i in range(len(chunks))]
    todo = [(chunk, str(file)) for chunk, file in zip(chunks, files, strict=True) if not file.exists()]
    if todo:
        drawer = ray.remote(num_gpus=config.gpus_per_actor, num_cpus=1)(Drawer)
        actors = [drawer.remote(config) for _ in range(min(config.num_actors, len(todo)))]
        with tqdm(total=len(tasks), initial=len(tasks) - sum(len(chunk) for chunk, _ in todo), unit="caption") as bar:
            for done in ActorPool(actors).map_unordered(lambda actor, job: actor.draw.remote(*job), todo):
                bar.update(done)  # type: ignore[arg-type]
    return [score for file in files for score in manifest.read_json(file)]


class Drawer:
    """Holds a model and draws chunks of captions."""

    def __init__(self, config: EvaluateConfig):
        self.config = config
        device = "cuda" if config.gpus_per_actor else "cpu"
        if device == "cpu":  # Ray allows an actor of one CPU one thread
            torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.num_actors))
        self.pipe = Emage.from_pretrained(config.checkpoint, device=device, dtype=config.dtype)
        ranks = config.rank == "clip" and config.candidates > 1
        self.ranker = ClipRanker(config.rank_weights, device=device) if ranks else None

    def draw(self, tasks: list[Task], file: str) -> int:
        """Writes the best picture of every task and, last, the chunk's scores; returns how many tasks."""
        config = self.config
        arguments: dict[str, Any] = {"rank": config.rank, "ranker": self.ranker, "batch_size": config.batch_size}
        groups = self.pipe.candidates(
            [task.caption for task in tasks],
            seed=[task.seed(config.seed) for task in tasks],
            candidates=config.candidates,
            **arguments,
            **config.sampling,
        )
        best = [max(group, key=lambda pair: pair[1]) for group in groups]
        for task, (image, _) in zip(tasks, best, strict=True):
            image.save(picture_path(Path(config.output), task))
        manifest.write_json(file, [score for _, score in best])
        return len(tasks)
