"""Cost of a training step: of each method, of precisions on a GPU, and of Ray Train and DeepSpeed over a bare loop.

python benchmarks/train.py                                              # the demo's model, on two cores: minutes
python benchmarks/train.py preset=emage_346m micro_batch_size=1 steps=1 rounds=2 pipeline=false   # on a CPU: minutes
python benchmarks/train.py preset=emage_346m results=train.json         # on a GPU

Prints a table per precision: milliseconds, tokens/s and FLOP/s of each method, and on a GPU the largest micro-batch;
then a step through Ray Train and DeepSpeed as a ratio to a bare PyTorch loop. `results` names a JSON file.

Methods take turns on the same rows, so that other load on the machine affects all of them. FLOP are those of
emage.training.estimate; "of matmul" is their rate as a fraction of a large matrix product's, measured in the same run.
By its FLOP iterative3 should cost about 1.33 x iterative1: its first pass is one more forward pass, without gradient.
"""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from train_bench import TOKENS, Bench, TrainBenchmark, Variant, check, training_config
from train_methods import measure, reason_to_skip
from train_pipeline import compare_with_pipeline

import emage
from emage.config import cli
from emage.utils import provenance
from emage.utils.errors import exit_on_bad_input


def main(argv: Sequence[str]) -> None:
    """Run the benchmark; exit with 2 and one line on bad input."""
    with exit_on_bad_input():
        run(cli.parse(TrainBenchmark, argv))


def run(settings: TrainBenchmark) -> dict[str, Any]:
    """Measure every variant and the pipeline; return the contents of the results file."""
    device = check(settings)
    config = training_config(settings)
    bench = Bench(settings, config, TOKENS[config.data.tokenizer], device)
    record: dict[str, Any] = {**machine(device), "settings": asdict(settings), "variants": {}, "skipped": {}}
    for precision in settings.precision:
        for compiled in settings.compile:
            variant = Variant(precision, compiled)  # type: ignore[arg-type]
            if reason := reason_to_skip(variant, device):
                record["skipped"][str(variant)] = reason
                print(f"{variant}: skipped, {reason}")
                continue
            record["variants"][str(variant)] = found = measure(variant, bench)
            show(f"{settings.preset}, {variant}, {record['device']}", found)
    if settings.pipeline:
        record["pipeline"] = found = compare_with_pipeline(bench)
        print("bare loop {bare_ms:.1f} ms per step, {bare_beside_ray_ms:.1f} ms next to an idle Ray".format(**found))
        print("Ray Train + DeepSpeed {pipeline_ms:.1f} ms: {ratio:.2f} x and {ratio_beside_ray:.2f} x".format(**found))
    if settings.results:
        Path(settings.results).write_text(json.dumps(record, indent=1) + "\n")
    return record


def machine(device: torch.device) -> dict[str, Any]:
    """Return device, versions and commit."""
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else threads,
        "versions": {"emage": emage.__version__, "torch": torch.__version__, "deepspeed": version("deepspeed")},
        "commit": provenance.commit(),
    }


def show(title: str, found: dict[str, Any]) -> None:
    rate = found["matmul_flops_per_s"] / 1e12
    table = Table(title=f"{title}, {found['micro_batch_size']} images per step, matmul {rate:.3g} TFLOP/s")
    table.add_column("method", no_wrap=True)
    for column in ("ms/step", "tokens/s", "TFLOP/s", "of matmul", "x iterative1", "MB/image", "largest"):
        table.add_column(column, justify="right")
    for method, row in found["methods"].items():
        ratio, size = row["ratio_to_iterative1"], row.get("bytes_a_picture")
        table.add_row(
            *(method, f"{row['ms']:.1f}", f"{row['tokens_per_s']:,.0f}", f"{row['flops_per_s'] / 1e12:.3g}"),
            *(f"{row['share_of_matmul']:.0%}", f"{ratio:.2f}" if ratio else "", f"{size / 2**20:.0f}" if size else ""),
            str(row.get("largest_micro_batch", "")),
        )
    Console(width=None if Console().is_terminal else 120).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
