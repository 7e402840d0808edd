"""Checkpoint + captions -> pictures -> report, on a pool of Ray actors.

output/pictures/   one PNG a caption, the best of its candidates
output/chunks/     scores of a chunk of captions; a chunk that has one is not drawn again
output/report.*    figures with the settings that made them; grid.png
"""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch
from PIL import Image
from ray.util import ActorPool
from tqdm import tqdm

from emage import manifest
from emage.config import EvaluateConfig, nearest
from emage.errors import InputError
from emage.evaluation import CHUNK, Task, picture_path, read_tasks, write_report
from emage.metrics import METRICS
from emage.on_ray import launch, tracking
from emage.pipeline import Emage
from emage.ranking import ClipRanker


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Draws, measures and reports; returns the figures. Goes on where an earlier run of the same command stopped."""
    for name in config.metrics:
        if name not in METRICS:
            raise InputError(f"unknown metric {name!r}{nearest(name, list(METRICS))} (metrics: {', '.join(METRICS)})")
    output = Path(config.output).resolve()
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
    manifest.claim(output, "evaluate", identity)
    (output / "pictures").mkdir(exist_ok=True)
    (output / "chunks").mkdir(exist_ok=True)
    launch.start_ray()
    with tracking.start(config.mlflow, stage="evaluate", settings=config) as run:
        scores = _draw(config, output, tasks)
        images = [Image.open(picture_path(output, task)) for task in tasks]
        captions = [task.caption for task in tasks]
        figures = {key: value for name in config.metrics for key, value in METRICS[name].measure(images, captions)}
        grid = write_report(output, tasks, scores, figures, identity)
        run.metrics({"captions": len(tasks), **figures})
        run.picture("grid.png", grid)
        run.file(output / "report.json")
        run.file(output / "report.md")
    print(f"{len(tasks)} captions: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()))
    print(f"report: {output / 'report.md'}")
    return figures


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
        self.ranker = ClipRanker(config.rank_weights, device=device) if config.rank == "clip" else None

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
            image.save(picture_path(Path(config.output).resolve(), task))
        manifest.write_json(file, [score for _, score in best])
        return len(tasks)
