"""Puts a trained model into the package, and measures it on fresh captions at several decoding steps, in both orders.

python pipelines/demo.py demo pictures=20000 held_out=1000 steps=4000 output=runs/shipped
python benchmarks/shipped_model.py demo runs/shipped/train/model      # as emage/model/pretrained/demo, in float16
python benchmarks/shipped_model.py demo                               # only measure it

Prints a table and writes results/shipped-NAME.json: the fraction of 1,000 held-out captions with both objects correct,
and with the relation too. Takes up to ten minutes of one core.
"""

import argparse
import math
import os
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

import emage
from emage.config.model import UnmaskingOrder
from emage.data import shapes
from emage.evaluation.metrics.shapes_accuracy import measure
from emage.inference.pipeline_parts.pretrained import REWRITTEN, without_folders
from emage.model import checkpoint, hub, model_card
from emage.utils import image_grid, manifest, provenance

SEED, NUM_CAPTIONS, STEPS = 20, 1_000, (4, 8, 16, 32)  # of captions that neither training nor its evaluation had
RESULTS = Path(__file__).parent / "results"


def main(name: str, trained: Path | None) -> None:
    """Write emage/model/pretrained/NAME from the trained model, if one is given, and measure it."""
    if trained is not None:
        ship(name, trained)
    pipe = emage.Emage.from_pretrained(name, device="cpu")
    captions = [scene.caption for scene in shapes.sample_held_out_scenes(NUM_CAPTIONS, SEED)]
    orders: tuple[UnmaskingOrder, ...] = (
        ("halton",) if pipe.config.method == "parallel_autoregressive" else ("halton", "confidence")
    )
    runs: list[dict[str, Any]] = []
    for order, steps in track([(order, steps) for order in orders for steps in STEPS], description=name):
        started = time.process_time()
        images = pipe.generate(captions, seed=SEED, batch_size=100, steps=steps, order=order)
        seconds = time.process_time() - started
        runs.append({"order": order, "steps": steps, "seconds": seconds, **dict(measure(images, captions))})
    about = {"torch": torch.__version__, "cpus": os.cpu_count(), "commit": provenance.commit()}
    record = {"model": name, "captions": NUM_CAPTIONS, "caption_seed": SEED, **about, "runs": runs}
    manifest.write_json(RESULTS / f"shipped-{name}.json", record)
    show(name, runs)


def ship(name: str, trained: Path) -> None:
    """Write the package's folder of the model: float16, without its tokenizer, with its card and sample images."""
    pipe = emage.Emage.from_pretrained(trained, device="cpu")
    kept = {key: value for key, value in pipe.metadata.items() if key not in REWRITTEN}
    config, metadata = without_folders(pipe.config, kept)
    folder = hub.SHIPPED / name
    checkpoint.save(folder, pipe.network, pipe.tokenizer, config, metadata, torch.float16, with_tokenizer=False)
    prompts = metadata["prompts"]
    image_grid.make_grid(pipe.generate(prompts), prompts).save(folder / model_card.SAMPLES)
    model_card.write(folder, pipe, name)
    size = sum(file.stat().st_size for file in folder.iterdir())
    print(f"{folder}: {size / 1e6:.1f} MB")


def show(name: str, runs: list[dict[str, Any]]) -> None:
    """Print a row per order, a column per number of decoding steps."""
    table = Table("order", *(f"{steps} steps" for steps in STEPS), title=f"{name}: objects / objects and relation")
    for order in dict.fromkeys(run["order"] for run in runs):
        found = [f"{run['objects_right']:.1%} / {run['relation_right']:.1%}" for run in runs if run["order"] == order]
        table.add_row(order, *found)
    error = 1.96 * math.sqrt(0.05 * 0.95 / NUM_CAPTIONS)
    Console(width=120).print(table)
    print(f"sampling error (95 %) of a value near 95 %: +-{error:.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("trained", type=Path, nargs="?")
    main(**vars(parser.parse_args()))
