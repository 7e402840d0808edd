"""Times what a user waits for before anything happens, as whole processes: help, the import, the first image.

python benchmarks/startup.py              # 10 runs of each; two minutes

| work        | process |
| --help      | emage --help |
| train help  | emage train --help |
| import      | python -c "import emage" |
| first image | python -c "an image from the shipped model, written as PNG", from a cold shell |

Prints and writes to results/startup.json the minimum, median and maximum of wall and CPU seconds. The files are in the
machine's page cache, as after a first run.
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import results_file
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from emage.utils import provenance

RUNS = 10
FIRST_IMAGE = (
    'import emage; emage.Emage.from_pretrained("demo").generate("a large red circle above a small blue square", seed=0)'
    '[0].save("first.png")'
)
WORK = {
    "--help": ["-m", "emage", "--help"],
    "train --help": ["-m", "emage", "train", "--help"],
    "import": ["-c", "import emage"],
    "first image": ["-c", FIRST_IMAGE],
}


def main() -> None:
    """Run every process once without counting, then RUNS times in turn; print and write the seconds."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in WORK}
    with tempfile.TemporaryDirectory() as folder:
        for run in track(range(RUNS + 1), description="start-up"):
            for name, words in WORK.items():
                measured = timed([sys.executable, *words], folder)
                if run:
                    seconds[name].append(measured)
    figures: dict[str, Any] = {
        name: {"wall": spread([wall for wall, _ in runs]), "cpu": spread([cpu for _, cpu in runs])}
        for name, runs in seconds.items()
    }
    about = {"device": "cpu", "cpus": os.cpu_count(), "torch": torch.__version__, "commit": provenance.commit()}
    results_file.write(Path(__file__).parent / "results" / "startup.json", {**about, "runs": RUNS, "seconds": figures})
    table = Table("process", "wall: median (min to max)", "CPU: median (min to max)", title="seconds")
    for name, found in figures.items():
        table.add_row(name, *("{median:.2f} ({min:.2f} to {max:.2f})".format(**found[kind]) for kind in found))
    Console(width=100).print(table)


def timed(command: list[str], folder: str) -> tuple[float, float]:
    """Run a process; return its wall and CPU seconds."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def spread(values: list[float]) -> dict[str, float]:
    """Return minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


if __name__ == "__main__":
    main()
