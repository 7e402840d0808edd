"""Recovery of each stage from the loss of a node: time to recover, work done twice, results lost.

    python benchmarks/nodes.py                                 # 15 minutes on two cores
    python benchmarks/nodes.py stages=[download,serve]

Each stage is the program that a user starts, on nodes simulated on this machine (processes, killed without notice).
All of a stage's work, for training half of it, is on the lost node; two new nodes join at once. The same stage also
runs undisturbed, and the outputs of both runs are compared byte by byte.
- recovered: seconds from the kill until the stage has finished more work than before. They include Ray's detection of
  the loss (missed heartbeats) and the start of new workers.
- done twice: in the stage's own units. Not counted, but given as a bound: work items in progress of a shuffle or an
  evaluation.
- new nodes at work: how many of the two. For the endpoint, with requests from four clients: outcomes of all requests.
Prints a table and writes results/nodes.json.
"""

import json
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nodes_cluster import losing_a_node, undisturbed
from nodes_serve import serve
from nodes_stages import STAGES, Inputs, prepared
from rich.console import Console
from rich.table import Table

from emage.config import cli
from emage.config.fields import setting
from emage.utils import provenance
from emage.utils.errors import exit_on_bad_input

NAMES = (*STAGES, "serve")
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class NodesBenchmark:
    """Settings of benchmarks/nodes.py."""

    stages: tuple[str, ...] = setting(NAMES, "Stages that lose a node.", choices=NAMES)
    pictures: int = setting(
        2_000, "Images of the ingested table; with fewer, a stage ends before a node can be lost.", minimum=500
    )
    results: str = setting(str(RESULTS / "nodes.json"), "JSON file for the numbers.")


def main(argv: Sequence[str]) -> None:
    """Run the benchmark; exit with 2 and one line on bad input."""
    with exit_on_bad_input():
        settings = cli.parse(NodesBenchmark, argv)
        with tempfile.TemporaryDirectory() as folder, prepared(Path(folder), settings.pictures) as inputs:
            machine = {"cores": os.cpu_count(), "python": platform.python_version(), "ray": version("ray")}
            measured: dict[str, dict[str, Any]] = {}
            for name in settings.stages:
                measured[name] = measure(name, inputs)
                text = json.dumps({"commit": provenance.commit(), "machine": machine, "stages": measured}, indent=2)
                Path(settings.results).write_text(text + "\n")
    show(measured)


def measure(name: str, inputs: Inputs) -> dict[str, Any]:
    """Return the measurements of one stage."""
    Console().rule(f"[bold]{name}")
    if name == "serve":
        return serve(inputs.folder)
    stage = STAGES[name](inputs)
    seconds, expected = undisturbed(stage)
    measured, result = losing_a_node(stage)
    return {"undisturbed_s": seconds, **measured, "same_bytes": result == expected}


def show(measured: dict[str, dict[str, Any]]) -> None:
    """Print a row per stage."""
    columns = ("undisturbed s", "with a node lost s", "recovered s", "done twice", "new nodes at work", "nothing lost")
    table = Table("stage", *columns)
    for name, row in measured.items():
        cells = [f"{row[key]:.0f}" if key in row else "" for key in ("undisturbed_s", "seconds")]
        twice = f"{row['done_twice']} of {row['total']} {row['unit']}"
        table.add_row(
            name, *cells, f"{row['recovered_s']:.1f}", twice, f"{row['new_nodes_at_work']}", f"{row['same_bytes']}"
        )
    Console(width=130).print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
