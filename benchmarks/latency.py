"""Seconds a picture at batch 1, the paper's Table 3: 16 passes over all tokens beside one token at a time.

python benchmarks/latency.py               # emage_346m with random weights: what a pass costs does not depend on them
python benchmarks/latency.py emage_vanilla

The autoregressive model is timed with its cache of keys and values and without (every token passes the whole picture so
far): the paper's 48 s are 47 ms a token. A token is timed at several lengths and summed in between by straight lines.
The tokenizer's decoder and the drawing of tokens come on top, the same for all.
"""

import json
import os
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from emage.config import TrainConfig, preset
from emage.errors import InputError
from emage.masking import MASK
from emage.methods import METHODS
from emage.model import Network
from emage.reproduce.latency import timed

STEPS, GRID, V = 16, (32, 32), 8192
LENGTHS = (1, 128, 256, 512, 768, 1024)
RESULTS = Path(__file__).parent / "results"


@torch.no_grad()
def main(name: str = "emage_346m") -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = preset(TrainConfig, name, data={"path": "unused"}, run={"output": "unused"}).model
    n = GRID[0] * GRID[1]
    y = torch.full((1, n), MASK, device=device)

    def network(method: str) -> tuple[Network, object]:
        made = Network(model, V, GRID, causal=METHODS[method].CAUSAL).to(device).eval()
        return made.decoder, made.read(torch.zeros(1, model.text_length, dtype=torch.long, device=device))

    decoder, context = network("iterative3")
    seconds = {f"iterative, {STEPS} passes": STEPS * median(lambda: decoder(y, context))}
    decoder, context = network("autoregressive")
    cache = decoder.new_cache(1, n)

    def next_token(length: int) -> None:
        cache.length[0] = length - 1
        decoder(y[:, :1], context, cache)

    ways: dict[str, Callable[[int], object]] = {
        "autoregressive, cached": next_token,
        "autoregressive, uncached": lambda length: decoder(y[:, :length], context),
    }
    for way, token in ways.items():
        each = [median(lambda token=token, length=length: token(length)) for length in LENGTHS]
        seconds[way] = float(np.interp(np.arange(1, n + 1), LENGTHS, each).sum())
    report(name, device, seconds)


def median(work: Callable[[], object]) -> float:
    """Seconds of `work`, of three calls after one to warm up."""
    return statistics.median(timed(work, rounds=3, warm_up=1))


def report(name: str, device: str, seconds: dict[str, float]) -> None:
    fastest = seconds[f"iterative, {STEPS} passes"]
    table = Table("decoder", "seconds a picture", "ratio", title=f"{name}, {device}, batch 1")
    for way, value in seconds.items():
        table.add_row(way, f"{value:.2f}", f"{value / fastest:.1f}")
    Console().print(table)
    where = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} of {os.cpu_count()} cores"
    record = {"model": name, "device": where, "torch": torch.__version__, "seconds_a_picture": seconds}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"latency_{name}_{device}.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:2])
    except InputError as error:
        sys.exit(f"error: {error}")
