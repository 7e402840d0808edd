"""Compares remedies for seeds that stay on a plateau, where the text is not yet read, on the toy world.

python benchmarks/plateau.py                                           # every remedy, five seeds; two hours on one core
python benchmarks/plateau.py --methods autoregressive --remedies adamw muon --seeds 0 1

After 1,000 steps of AdamW most seeds of the autoregressive model have most held-out captions correct, and single ones
next to none. Each remedy changes one setting. "adamw" is the paper's optimizer with the demo's learning rate.

Prints a line per training and a table of means and ranges; writes results/plateau.json and plateau.png. Trainings that
the file has, with the same steps, are not run again, so that a stopped run continues.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import small_training
import torch
from rich.console import Console
from rich.table import Table

from emage.data import shapes
from emage.evaluation.metrics.shapes_accuracy import measure
from emage.methods import METHODS
from emage.reproduce.shapes_dataset import write_table
from emage.utils import manifest, provenance

NUM_IMAGES, NUM_SCORED, STEPS_PER_POINT = 4_000, 400, 20
RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "plateau.json"
ADAMW = {"optimizer": "adamw"}
REMEDIES: dict[str, dict[str, Any]] = {
    "adamw": ADAMW,
    "muon": {"optimizer": "muon"},
    "longer warm-up (0.1)": {**ADAMW, "warmup": 0.1},
    "batch 64, half of the steps": {**ADAMW, "batch_size": 64, "micro_batch_size": 64},
    "muon, 2.7 times the rate": {"optimizer": "muon", "lr": 4e-3},
}


def main(steps: int, seeds: Sequence[int], methods: Sequence[str], remedies: Sequence[str]) -> None:
    """Train and score every method with every remedy and seed that the file lacks; write and print the results."""
    torch.set_num_threads(1)
    runs: list[dict[str, Any]] = json.loads(FILE.read_text())["runs"] if FILE.exists() else []
    jobs = [(seed, method, remedy) for seed in seeds for method in methods for remedy in remedies]
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder), shapes.sample_train_scenes(NUM_IMAGES, seed=0), seed=0)
        for i, (seed, method, remedy) in enumerate(jobs):
            name = f"{i + 1}/{len(jobs)}  {method}, {remedy}, seed {seed}"
            if any(key(run) == (steps, seed, method, remedy) for run in runs):
                print(f"{name}: in {FILE.name}", flush=True)
                continue
            runs.append(run(folder, method, remedy, seed, steps))
            last = runs[-1]
            print(f"{name}: {last['all_right']:.1%} all correct, {last['seconds']:.0f} s of one core", flush=True)
            record = {"torch": torch.__version__, "threads": 1, "cpus": os.cpu_count(), "runs": runs}
            manifest.write_json(FILE, record)
    shown = [one for one in runs if key(one) in {(steps, *job) for job in jobs}]
    report(shown)
    figure(shown)


def key(run: dict[str, Any]) -> tuple[int, int, str, str]:
    """Return what makes a training of the file another one."""
    return run["steps"], run["seed"], run["method"], run["remedy"]


def run(table: str, method: str, remedy: str, seed: int, steps: int) -> dict[str, Any]:
    """Train one model; return its losses, scores on held-out captions and CPU seconds."""
    optim = {"steps": steps, **REMEDIES[remedy]}
    optim["steps"] = steps * 32 // optim.get("batch_size", 32)  # the same number of images
    losses: list[float] = []
    started = time.process_time()
    pipe = small_training.train(
        table,
        method,
        seed,
        lambda network, config, step, metrics, batch: losses.append(metrics["loss"]),
        optim=optim,
    )
    seconds = time.process_time() - started
    captions = [scene.caption for scene in shapes.sample_held_out_scenes(NUM_SCORED, 7)]
    scores = dict(measure(pipe.generate(captions, seed=1000, batch_size=100), captions))
    points = [
        round(statistics.mean(losses[i : i + STEPS_PER_POINT]), 4) for i in range(0, len(losses), STEPS_PER_POINT)
    ]
    about = {"steps": steps, "seed": seed, "method": method, "remedy": remedy, "commit": provenance.commit()}
    return {**about, "losses": points, "seconds": seconds, **scores}


def report(runs: list[dict[str, Any]]) -> None:
    """Print means and ranges over the seeds, a row per method and remedy."""
    table = Table("method", "remedy", "seeds", "all correct: mean (range)", "each seed", title="held-out captions")
    for method, remedy in dict.fromkeys((run["method"], run["remedy"]) for run in runs):
        values = [run["all_right"] for run in runs if (run["method"], run["remedy"]) == (method, remedy)]
        span = f"{statistics.mean(values):.1%} ({min(values):.1%} to {max(values):.1%})"
        table.add_row(method, remedy, str(len(values)), span, ", ".join(f"{value:.1%}" for value in values))
    Console(width=140).print(table)


def figure(runs: list[dict[str, Any]]) -> None:
    """Plot the losses: a panel per method, a colour per remedy, a line per seed."""
    methods = list(dict.fromkeys(run["method"] for run in runs))
    chart, axes = plt.subplots(1, len(methods), figsize=(6 * len(methods), 4), squeeze=False, layout="constrained")
    for method, axis in zip(methods, axes[0], strict=True):
        for colour, remedy in enumerate(REMEDIES):
            for i, run in enumerate(one for one in runs if (one["method"], one["remedy"]) == (method, remedy)):
                samples = [(j + 1) / len(run["losses"]) for j in range(len(run["losses"]))]
                axis.plot(samples, run["losses"], color=f"C{colour}", alpha=0.8, label=remedy if i == 0 else None)
        axis.set(title=method, xlabel="fraction of the training", ylabel="loss, nats per token", yscale="log")
        axis.legend(loc="upper right", fontsize=8)
    chart.savefig(RESULTS / "plateau.png", dpi=110)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--methods", nargs="+", default=["autoregressive"], choices=list(METHODS))
    parser.add_argument("--remedies", nargs="+", default=list(REMEDIES), choices=list(REMEDIES))
    main(**vars(parser.parse_args()))
