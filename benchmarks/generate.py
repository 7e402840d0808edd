"""Milliseconds per image, text to pixels, at the paper's size, compared with other models in one run; random weights.

python benchmarks/generate.py                                  # everything that the device can do
python benchmarks/generate.py dtypes=[float32] peers=false     # only our models

Ours: all methods with 4 to 32 decoding steps, the autoregressive one with and without its cache. Others (peers):
diffusers' aMUSEd (12 steps of 256 tokens; a forward pass of its transformer over 1024) and muse-maskgit-pytorch (with
the width, depth and number of tokens of ours).

Takes minutes on two cores. Prints a line per measurement, then a table per precision and batch size. `ratio` is the
time divided by that of 16 steps of iterative3 with the same precision and batch size; a forward pass is divided by one
of ours without torch.compile and CUDA graphs. `of matmul` is the FLOP/s as a fraction of a large matrix product's,
measured in the same run. Writes results/generate-DEVICE.json and warns of ratios that are worse than in it before.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from generate_bench import OURS, PASS, STEP, STEPS, Bench, GenerateBenchmark, Measurement
from results_file import decreases, read, write
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import emage
from emage.config import cli
from emage.reproduce.latency import device_and_load
from emage.utils.errors import exit_on_bad_input

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str]) -> None:
    """Run the benchmark; exit with 2 and one line on bad input."""
    with exit_on_bad_input():
        run(cli.parse(GenerateBenchmark, argv))


def run(settings: GenerateBenchmark) -> dict[str, Any]:
    """Measure everything that the settings select; return the contents of the results file."""
    bench = Bench(settings)
    path = Path(settings.results) if settings.results else RESULTS / f"generate-{bench.device.type}.json"
    unfinished = path.with_suffix(".part.json")  # stays if the run is interrupted
    work = [*bench.in_turns(), *([one] for one in bench.planned())]
    measurements: list[Measurement] = []
    record: dict[str, Any] = {}
    with Progress(disable=not Console().is_terminal) as progress:
        for planned in progress.track(work, description="measurements"):
            bench.measure(planned)
            for measurement, _ in planned:
                measurements.append(measurement)
                name = f"{measurement.dtype}, batch {measurement.batch}"
                progress.console.print(f"{name}: {line(measurement)}", highlight=False, soft_wrap=True)
            compare(measurements)
            record = described(bench, measurements, complete=planned is work[-1])
            write(unfinished, record)
    for dtype, batch in dict.fromkeys((measurement.dtype, measurement.batch) for measurement in measurements):
        together = [
            measurement for measurement in measurements if (measurement.dtype, measurement.batch) == (dtype, batch)
        ]
        show(f"{record['device']}, {dtype}, batch {batch}", together)
    for warning in decreases(read(path), record):
        print(warning, file=sys.stderr)
    unfinished.replace(path)
    return record


def described(bench: Bench, measurements: Sequence[Measurement], complete: bool) -> dict[str, Any]:
    """Return the results file: device, versions, settings, measurements."""
    return {
        **device_and_load(bench.device),
        "emage": emage.__version__,
        "versions": bench.versions,
        "commit": bench.commit,
        "settings": asdict(bench.settings) | {"compile": bench.compiles},
        "complete": complete,
        "matmul_tflop_per_s": {dtype: peak / 1e12 for dtype, peak in bench.peaks.items()},
        "gflop_a_picture": {name: flops / 1e9 for name, flops in bench.flops._asdict().items()},
        "figures": [asdict(measurement) for measurement in measurements],
        "kernel_ms_a_picture": bench.profiles,
        "ratios": ratios(measurements),
    }


def compare(measurements: Sequence[Measurement]) -> None:
    """Set the ratio of each measurement to ours; forward passes are compared with forward passes."""
    for measurement in measurements:
        ours = next((one for one in measurements if is_ours(one) and is_comparable(one, measurement)), None)
        if ours and not measurement.failed:
            measurement.ratio = measurement.ms_a_picture / ours.ms_a_picture


def is_comparable(one: Measurement, other: Measurement) -> bool:
    """Return whether both have the same precision and batch size, and are of whole images or of the same part."""
    both_whole = one.scope not in (PASS, STEP) and other.scope not in (PASS, STEP)
    return (one.dtype, one.batch) == (other.dtype, other.batch) and (both_whole or one.scope == other.scope)


def is_ours(measurement: Measurement) -> bool:
    """Return whether the others' times are divided by this one."""
    return (measurement.what, measurement.steps) in ((OURS, STEPS), ("decoder, as written", 1))


def ratios(measurements: Sequence[Measurement]) -> dict[str, float]:
    """Return the ratios that later runs are compared with: times of the others over ours, and fractions of matmul."""
    found: dict[str, float] = {}
    for one in measurements:
        name = f"{one.dtype}, batch {one.batch}: {one.what}, {one.steps} steps, {one.scope}"
        if one.share_of_matmul is not None:
            found[f"{name}: share of the matmul rate"] = one.share_of_matmul
        elif one.ratio is not None:
            found[f"{name}: times ours"] = one.ratio
    return found


def line(one: Measurement) -> str:
    """Return one line on a measurement."""
    if one.failed:
        return f"{one.what}: failed, {one.failed}"
    fraction = "" if one.share_of_matmul is None else f", {one.share_of_matmul:.0%} of the matmul rate"
    return f"{one.what}, {one.steps} steps, {one.scope}: {one.ms_a_picture:,.1f} ms per image{fraction}"


def show(title: str, measurements: Sequence[Measurement]) -> None:
    """Print a table of measurements."""
    columns = ("", "steps", "what", "ms per image", "images/s", "ratio", "GFLOP", "of matmul", "GiB")
    table = Table(*columns, title=title)
    for one in measurements:
        if one.failed:
            table.add_row(one.what, str(one.steps), one.scope, "failed", "", "", "", "", "")
            continue
        per_second = "" if one.scope in (PASS, STEP) else f"{1e3 / one.ms_a_picture:,.3g}"
        numbers = (one.ratio, "{:.2f}"), (one.share_of_matmul, "{:.0%}"), (one.peak_gib, "{:.1f}")
        rest = ["" if value is None else form.format(value) for value, form in numbers]
        rest.insert(1, f"{one.flops / 1e9:,.0f}" if one.flops else "")
        table.add_row(one.what, str(one.steps), one.scope, f"{one.ms_a_picture:,.1f}", per_second, *rest)
    Console(width=None if Console().is_terminal else 120).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
