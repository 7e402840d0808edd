"""Units of work that are done once: a training, an evaluation, a measurement. Several processes may share them.

output/models/iterative3-seed0/
    started.json   the settings it was begun with, and their fingerprint
    work/          what the program itself writes
    result.json    figures, seconds and the fingerprint; written last, so that a cell that has one is finished
output/.locks/     one a cell, held while a process works on it

A cell is a config of some program, the folder of its result, and the cells that it needs first. Other settings than
those recorded: the old folder moves to the next free number, and the cell is made anew.
"""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from emage.utils import manifest, provenance
from emage.version import __version__

RESULT, STARTED, WORK, LOCKS = "result.json", "started.json", "work", ".locks"
POLL_S = 5.0  # until a cell that another process works on is looked at again

# What does not change a result: where things lie and how many share the work. Files of cells count by the cell itself.
INDIFFERENT = (
    *("output", "mlflow", "num_workers", "num_actors", "cpus_per_worker", "use_gpu", "gpus_per_actor", "zero_stage"),
    *("log_every", "sample_every", "checkpoint_every", "keep", "keep_every", "max_failures", "prompts", "dry_run"),
)


@dataclass(frozen=True)
class Cell:
    """`name` is its folder below the output; `config` the dataclass of the program that makes it."""

    name: str
    config: Any
    needs: tuple["Cell", ...] = ()
    lock: str | None = None  # cells of one lock are never made at the same time; none: its own


Work = Callable[[Any], dict[str, Any]]  # runs a config, which says where it writes; returns figures


def in_order(cells: Iterable[Cell]) -> list[Cell]:
    """Each cell once, after those that it needs; else in the order given."""
    found: dict[str, Cell] = {}
    for cell in cells:
        for other in (*in_order(cell.needs), cell):
            found.setdefault(other.name, other)
    return list(found.values())


# --- What is finished -------------------------------------------------------------------------------------------------


def fingerprint(cell: Cell, output: Path) -> str:
    """Equal for equal settings, of the cell and of all that it needs, wherever the output lies."""
    needs = [fingerprint(need, output) for need in cell.needs]
    return manifest.fingerprint([type(cell.config).__name__, settings(cell, output), needs])


def settings(cell: Cell, output: Path) -> dict[str, Any]:
    """What a cell's result depends on: its config without what is indifferent."""
    return _plain(asdict(cell.config), f"{output.absolute()}{os.sep}")


def _plain(value: Any, root: str) -> Any:
    """Places below the output are told from there."""
    if isinstance(value, dict):
        return {key: _plain(item, root) for key, item in value.items() if key not in INDIFFERENT}
    if isinstance(value, list | tuple):
        return [_plain(item, root) for item in value]
    return value.removeprefix(root) if isinstance(value, str) else value


def result(cell: Cell, output: Path) -> dict[str, Any] | None:
    """What a finished cell found; None where it is not finished, or was made with other settings."""
    record = manifest.read_json(output / cell.name / RESULT)
    return record if record and record["fingerprint"] == fingerprint(cell, output) else None


def waiting(cells: Iterable[Cell], output: Path) -> list[Cell]:
    return [cell for cell in cells if result(cell, output) is None]


# --- Working ----------------------------------------------------------------------------------------------------------


def work_through(cells: Sequence[Cell], output: Path, work: Work) -> None:
    """Makes all that is not there; `cells` in order. What another process works on is skipped and come back to."""
    (output / LOCKS).mkdir(parents=True, exist_ok=True)
    while left := waiting(cells, output):
        ready = (cell for cell in left if not waiting(cell.needs, output))
        if not any(_attempt(cell, output, work) for cell in ready):  # after one that was made, others may be ready
            time.sleep(POLL_S)


def forget(cells: Iterable[Cell], output: Path) -> None:
    """Moves away what these cells hold, but for those that a process works on now."""
    (output / LOCKS).mkdir(parents=True, exist_ok=True)
    for cell in cells:
        with _mine(cell, output) as mine:
            if mine:
                _move_away(output / cell.name)


def _attempt(cell: Cell, output: Path, work: Work) -> bool:
    """Makes one cell, unless somebody else does or has done meanwhile; whether it was made here."""
    with _mine(cell, output) as mine:
        if not mine or result(cell, output) is not None:
            return False
        made_with = fingerprint(cell, output)
        folder = output / cell.name
        begun = manifest.read_json(folder / STARTED)
        if begun is not None and begun["fingerprint"] != made_with:
            _move_away(folder)
        (folder / WORK).mkdir(parents=True, exist_ok=True)
        # One that was begun and killed is gone on with: its seconds so far are lost, its work is not.
        manifest.write_json(folder / STARTED, {"fingerprint": made_with, "settings": settings(cell, output)})
        started = time.monotonic()
        figures = work(cell.config)
        record = {
            "fingerprint": made_with,
            "figures": figures,
            # Of one that was gone on with nobody knows all seconds.
            "seconds": None if begun and begun["fingerprint"] == made_with else time.monotonic() - started,
            "made_by": made_by(),
        }
        manifest.write_json(folder / RESULT, record)
        return True


@contextmanager
def _mine(cell: Cell, output: Path) -> Iterator[bool]:
    """Whether this process may work on the cell. The lock goes with its process."""
    lock = FileLock(output / LOCKS / f"{(cell.lock or cell.name).replace('/', '.')}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def made_by() -> dict[str, str]:
    """The machine and the code of a result."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "machine": f"{os.cpu_count()} CPU cores, {gpu}",
        "versions": f"emage {__version__}, torch {torch.__version__}",
        "commit": provenance.commit(),
    }


def _move_away(folder: Path) -> None:
    """To the next free number: what took hours is not deleted because a setting changed."""
    if folder.exists():
        number = next(i for i in range(1, 10_000) if not folder.with_name(f"{folder.name}.{i}").exists())
        os.replace(folder, folder.with_name(f"{folder.name}.{number}"))
