"""Compares remedies for iterative2 and iterative3 ignoring their image context, on the toy world.

python benchmarks/context.py                 # every variant, two seeds; 80 minutes on one core
python benchmarks/context.py --steps 200 --seeds 1

The second pass of iterative2 and iterative3 is trained on tokens that the model itself has generated. As long as these
carry no information about the image, the model gains nothing from reading them, and training can get stuck
there (measured by `context_gain`). Each variant is one remedy, or none.

Prints a line per training and a table of means and ranges; writes results/context.json, with the gains during training,
and results/context.png.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import small_training
import torch
from rich.console import Console
from rich.table import Table

from emage.config import ObjectiveConfig, TrainConfig
from emage.data import shapes
from emage.data.token_table import Batch
from emage.evaluation.metrics.shapes_accuracy import measure
from emage.model.transformer import Network
from emage.reproduce.shapes_dataset import write_table
from emage.training.context_gain import context_gain

NUM_IMAGES, NUM_SCORED, STEPS_PER_PROBE = 4_000, 200, 100
REMEDIES: dict[str, dict[str, Any]] = {
    "as in the paper": {},
    "argmax first pass": {"first_pass": "argmax"},
    "warm start 0.5": {"warm_start": 0.5},
    "ground truth 0.25": {"ground_truth_share": 0.25},
}
VARIANTS = {("iterative1", "as in the paper"): {}} | {
    (method, remedy): values for method in ("iterative2", "iterative3") for remedy, values in REMEDIES.items()
}
RESULTS = Path(__file__).parent / "results"


def main(steps: int, seeds: int) -> None:
    """Train and score every variant with every seed; write and print the results."""
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder), shapes.sample_train_scenes(NUM_IMAGES, seed=0), seed=0)
        jobs = list(itertools.product(range(seeds), VARIANTS))
        for i, (seed, (method, remedy)) in enumerate(jobs):
            runs.append(run(folder, method, remedy, seed, steps))
            last = runs[-1]
            print(
                f"{i + 1}/{len(jobs)}  {method}, {remedy}, seed {seed}: context gain {last['probe'][-1][1]:+.3f}, "
                f"{last['objects_right']:.1%} correct, {last['seconds']:.0f} s",
                flush=True,
            )
            RESULTS.mkdir(exist_ok=True)
            record = {"steps": steps, "torch": torch.__version__, "threads": 1, "cpus": os.cpu_count(), "runs": runs}
            (RESULTS / "context.json").write_text(json.dumps(record, indent=1))
    report(runs)
    figure(runs)


def run(table: str, method: str, remedy: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one variant; return its context gains during training, scores on held-out captions and CPU seconds."""
    probe: list[tuple[int, float, float]] = []

    def on_step(network: Network, config: TrainConfig, step: int, metrics: dict[str, float], batch: Batch) -> None:
        if step % STEPS_PER_PROBE == 0:
            gains = context_gain(network, batch, config.optim.micro_batch_size)
            probe.append((step, gains["context_gain"], gains["visible_gain"]))

    objective = asdict(ObjectiveConfig(**VARIANTS[method, remedy]))
    started = time.process_time()
    optim = {"steps": steps, "optimizer": "adamw"}  # the paper's, with which the problem was found
    pipe = small_training.train(table, method, seed, on_step, objective=objective, optim=optim)
    seconds = time.process_time() - started
    captions = [scene.caption for scene in shapes.sample_held_out_scenes(NUM_SCORED, seed)]
    scores = dict(measure(pipe.generate(captions, seed=seed, batch_size=50), captions))
    about = {"method": method, "cure": remedy, "seed": seed, "objective": objective}
    return {**about, "probe": probe, "seconds": seconds, **scores}


def report(runs: list[dict[str, Any]]) -> None:
    """Print means and ranges over the seeds, a row per variant."""
    table = Table(
        "method", "remedy", "context gain", "visible gain", "objects correct", "CPU seconds", title="mean (min-max)"
    )
    for method, remedy in VARIANTS:
        group = [run for run in runs if (run["method"], run["cure"]) == (method, remedy)]
        columns = [
            [run["probe"][-1][1] for run in group],
            [run["probe"][-1][2] for run in group],
            [run["objects_right"] for run in group],
            [run["seconds"] for run in group],
        ]
        cells = [f"{statistics.mean(c):.3g} ({min(c):.3g}-{max(c):.3g})" for c in columns]
        table.add_row(method, remedy, *cells)
    Console(width=140).print(table)


def figure(runs: list[dict[str, Any]]) -> None:
    """Plot the context gain during training: a panel per method, a line per run."""
    panels = ("iterative2", "iterative3")
    chart, axes = plt.subplots(1, len(panels), figsize=(11, 4), sharey=True, layout="constrained")
    for method, axis in zip(panels, axes, strict=True):
        shown = [("iterative1", "as in the paper"), *((method, remedy) for remedy in REMEDIES)]
        for colour, key in enumerate(shown):
            for i, run in enumerate(run for run in runs if (run["method"], run["cure"]) == key):
                steps, gains, _ = zip(*run["probe"], strict=True)
                label = f"{key[0]}, for comparison" if key[0] != method else key[1]
                axis.plot(steps, gains, color=f"C{colour}", label=label if i == 0 else None)
        axis.set(title=method, xlabel="step", ylim=(-0.02, None))
        axis.legend(loc="upper left")
    axes[0].set_ylabel("context gain")
    chart.savefig(RESULTS / "context.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_200)
    parser.add_argument("--seeds", type=int, default=2)
    main(**vars(parser.parse_args()))
