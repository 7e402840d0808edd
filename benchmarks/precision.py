"""bfloat16, float16 and, on a GPU, TF32 compared with float32: same checkpoint, captions and seeds, one run.

python benchmarks/precision.py                           # the shipped model; a minute on two cores
python benchmarks/precision.py runs/demo/train/model     # another model of the demo's toy world

Prints a table with a row per precision: the largest change of log-probabilities in the first forward pass, how many of
its best tokens and of the tokens of finished images stay the same, the fraction of images that the checker accepts,
and images per second as a ratio to float32. Writes results/precision-DEVICE.json.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import emage
from emage.config import Dtype
from emage.data import shapes
from emage.evaluation.metrics.shapes_accuracy import measure
from emage.methods import METHODS
from emage.methods.masking import MASK, ImageRng
from emage.model.device_support import arithmetic
from emage.utils import provenance
from emage.utils.errors import InputError

NUM_IMAGES, BATCH_SIZE = 200, 50
DTYPES: tuple[Dtype, ...] = ("float32", "tf32", "bfloat16", "float16")
RESULTS = Path(__file__).parent / "results"


def main(checkpoint: str) -> None:
    """Compare the precisions on a checkpoint; print and write the results."""
    captions = [scene.caption for scene in shapes.sample_held_out_scenes(NUM_IMAGES, seed=0)]
    on_gpu = torch.cuda.is_available()
    runs = {dtype: run(checkpoint, dtype, captions) for dtype in DTYPES if on_gpu or dtype != "tf32"}
    exact = runs["float32"]
    table = Table(
        "precision", "max |d log p|", "best tokens equal", "final tokens equal", "objects correct", "images/s, ratio"
    )
    rows: dict[str, dict[str, float]] = {}
    for dtype, found in runs.items():
        rows[dtype] = {
            "max_log_p_difference": (found["log_p"] - exact["log_p"]).abs().max().item(),
            "first_best_equal": (found["log_p"].argmax(-1) == exact["log_p"].argmax(-1)).float().mean().item(),
            "tokens_equal": (found["tokens"] == exact["tokens"]).float().mean().item(),
            "objects_right": found["objects_right"],
            "speed_ratio": exact["seconds"] / found["seconds"],
        }
        difference, best, equal, right, speed = rows[dtype].values()
        table.add_row(dtype, f"{difference:.4f}", f"{best:.1%}", f"{equal:.1%}", f"{right:.1%}", f"{speed:.2f}")
    Console().print(table)
    device = torch.cuda.get_device_name() if on_gpu else f"{os.cpu_count()} CPU cores"
    about = {"device": device, "torch": torch.__version__, "emage": emage.__version__, "pictures": NUM_IMAGES}
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"precision-{'cuda' if on_gpu else 'cpu'}.json"
    path.write_text(json.dumps({**about, "commit": provenance.commit(), "precisions": rows}, indent=1) + "\n")


@torch.no_grad()
def run(checkpoint: str, dtype: Dtype, captions: list[str]) -> dict[str, Any]:
    """Return log-probabilities of the first forward pass, final tokens, score and seconds of generation."""
    pipe = emage.Emage.from_pretrained(checkpoint, dtype=dtype)
    pipe.warm_up((BATCH_SIZE,))
    started = time.perf_counter()
    images = pipe.generate(captions, seed=list(range(NUM_IMAGES)), batch_size=BATCH_SIZE)
    seconds = time.perf_counter() - started
    rows, columns = pipe.config.grid
    masked = torch.full((BATCH_SIZE, rows * columns), MASK, device=pipe.device)
    context = pipe.network.encode_text(pipe.network.text.tokenize(captions[:BATCH_SIZE])[0].to(pipe.device))
    method, rng = METHODS[pipe.config.method], ImageRng(range(BATCH_SIZE), pipe.device)
    with arithmetic(dtype, pipe.device):
        log_p = pipe.network.decoder(masked, context).float().log_softmax(-1).cpu()
        *_, last = method.generate(pipe.network.decoder, context, masked, pipe.config.sampling, rng)
    return {"log_p": log_p, "tokens": last.y_obs.cpu(), "seconds": seconds, **dict(measure(images, captions))}


if __name__ == "__main__":
    try:
        main(sys.argv[1] if len(sys.argv) > 1 else "demo")
    except InputError as error:
        sys.exit(f"error: {error}")
