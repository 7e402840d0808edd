"""Milliseconds an image, text to pixels, at the paper's size and beside the peers, in one run; random weights.

python benchmarks/generate.py                                  # what the device can do
python benchmarks/generate.py dtypes=[float32] peers=false     # ours alone

Ours: the five methods, 4 to 32 steps, the autoregressive one with its cache and without. Peers: diffusers' aMUSEd (12
steps of 256 tokens; a pass of its transformer over 1024), muse-maskgit-pytorch (as wide, deep and many tokens as ours).
A ratio is how many times as long as 16 steps of iterative3 of the same precision and batch, of a pass as long as one of
ours as it is written. Shares are of a large matrix product's rate, measured in the same run.
"""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compared import fallen, read, write
from generate_bench import OURS, PASS, STEP, STEPS, Bench, Figure, GenerateBenchmark
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import emage
from emage.config import cli
from emage.reproduce.latency import device_and_load
from emage.utils.errors import exit_on_bad_input

RESULTS = Path(__file__).parent / "results"


def main(argv: Sequence[str]) -> None:
    """Exits with 2 and one line on bad input."""
    with exit_on_bad_input():
        run(cli.parse(GenerateBenchmark, argv))


def run(settings: GenerateBenchmark) -> dict[str, Any]:
    bench = Bench(settings)
    path = Path(settings.results) if settings.results else RESULTS / f"generate-{bench.device.type}.json"
    part = path.with_suffix(".part.json")  # a run that is cut short leaves what it found
    work, figures, record = [*bench.in_turns(), *([job] for job in bench.jobs())], list[Figure](), dict[str, Any]()
    with Progress(disable=not Console().is_terminal) as progress:
        for jobs in progress.track(work, description="figures"):
            bench.measure(jobs)
            for figure, _ in jobs:
                figures.append(figure)
                where = f"{figure.dtype}, batch {figure.batch}"
                progress.console.print(f"{where}: {line(figure)}", highlight=False, soft_wrap=True)
            compare(figures)
            record = described(bench, figures, complete=jobs is work[-1])
            write(part, record)
    for dtype, batch in dict.fromkeys((figure.dtype, figure.batch) for figure in figures):
        together = [figure for figure in figures if (figure.dtype, figure.batch) == (dtype, batch)]
        show(f"{record['device']}, {dtype}, batch {batch}", together)
    for warning in fallen(read(path), record):
        print(warning, file=sys.stderr)
    part.replace(path)
    return record


def described(bench: Bench, figures: Sequence[Figure], complete: bool) -> dict[str, Any]:
    """The results file: where, by which code, what."""
    return {
        **device_and_load(bench.device),
        "emage": emage.__version__,
        "versions": bench.versions,
        "commit": bench.commit,
        "settings": asdict(bench.settings) | {"compile": bench.compiles},
        "complete": complete,
        "matmul_tflop_per_s": {dtype: peak / 1e12 for dtype, peak in bench.peaks.items()},
        "gflop_a_picture": {name: flops / 1e9 for name, flops in bench.flops._asdict().items()},
        "figures": [asdict(figure) for figure in figures],
        "kernel_ms_a_picture": bench.profiles,
        "ratios": ratios(figures),
    }


def compare(figures: Sequence[Figure]) -> None:
    """Gives each figure its ratio to ours; passes compare with passes."""
    for figure in figures:
        pairs = [other for other in figures if (other.dtype, other.batch) == (figure.dtype, figure.batch)]
        whole = figure.scope not in (PASS, STEP)
        ours = [o for o in pairs if is_ours(o) and (o.scope not in (PASS, STEP) if whole else o.scope == figure.scope)]
        if ours and not figure.failed:
            figure.ratio = figure.ms_a_picture / ours[0].ms_a_picture


def is_ours(figure: Figure) -> bool:
    return (figure.what, figure.steps) in ((OURS, STEPS), ("decoder, as written", 1))


def ratios(figures: Sequence[Figure]) -> dict[str, float]:
    """What later runs are compared with: how much longer the others take, and our shares of the matmul rate."""
    found: dict[str, float] = {}
    for figure in figures:
        name = f"{figure.dtype}, batch {figure.batch}: {figure.what}, {figure.steps} steps, {figure.scope}"
        if figure.share_of_matmul is not None:
            found[f"{name}: share of the matmul rate"] = figure.share_of_matmul
        elif figure.ratio is not None:
            found[f"{name}: times ours"] = figure.ratio
    return found


def line(figure: Figure) -> str:
    if figure.failed:
        return f"{figure.what}: failed, {figure.failed}"
    share = "" if figure.share_of_matmul is None else f", {figure.share_of_matmul:.0%} of the matmul rate"
    return f"{figure.what}, {figure.steps} steps, {figure.scope}: {figure.ms_a_picture:,.1f} ms an image{share}"


def show(title: str, figures: Sequence[Figure]) -> None:
    columns = ("", "steps", "what", "ms an image", "images/s", "ratio", "of matmul", "GiB")
    table = Table(*columns, title=title)
    for f in figures:
        if f.failed:
            table.add_row(f.what, str(f.steps), f.scope, "failed", "", "", "", "")
            continue
        per_second = "" if f.scope in (PASS, STEP) else f"{1e3 / f.ms_a_picture:,.3g}"
        numbers = (f.ratio, "{:.2f}"), (f.share_of_matmul, "{:.0%}"), (f.peak_gib, "{:.1f}")
        rest = ["" if value is None else form.format(value) for value, form in numbers]
        table.add_row(f.what, str(f.steps), f.scope, f"{f.ms_a_picture:,.1f}", per_second, *rest)
    Console(width=None if Console().is_terminal else 120).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
