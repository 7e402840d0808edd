"""Experiments that are run once: a training, an evaluation, a measurement. Several processes may share them.

output/models/iterative3-seed0/
    started.json   the settings with which it was started, and their fingerprint
    work/          the output of the program itself
    result.json    results, seconds and the fingerprint; written last: an experiment that has this file is finished
output/.locks/     one file per lock (an experiment's own name, or `lock`), held while a process runs the experiment

An experiment is the config of a program, the folder of its result, and the experiments that it needs first. If the
settings differ from those recorded, the old folder is renamed (to the next free number) and the experiment runs again.
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
from emage.utils.redact import redact_settings
from emage.version import __version__

RESULT, STARTED, WORK, LOCKS = "result.json", "started.json", "work", ".locks"
POLL_S = 5.0  # between two checks of experiments that other processes are running

# Settings that do not change a result: where files are, how many processes share the work, logging, sample images and
# their prompts, how often checkpoints are saved and how many stay, retries, and a dry run. A file made by another
# experiment counts by that experiment's own fingerprint.
IGNORED_SETTINGS = (
    *("output", "mlflow", "num_workers", "num_actors", "cpus_per_worker", "use_gpu", "gpus_per_actor", "zero_stage"),
    *("log_every", "sample_every", "checkpoint_every", "keep", "keep_every", "max_failures", "prompts", "dry_run"),
)
# Settings that are newer than results on disk, each with the value that means what was done before there was a choice:
# with this value they do not count, so that a new setting does not make every experiment run again.
ADDED_LATER = {"optimizer": "adamw", "mask_curriculum": 0.0, "reference_images": "all", "rows": None}


@dataclass(frozen=True)
class Experiment:
    """One run of a program.

    Args:
        name: Its folder below the output.
        config: The dataclass of settings of the program that runs it. Its field names are part of the fingerprint.
        program: The program's name in the fingerprint. It is data on disk and does not follow the class's name.
        needs: Experiments that must be finished before.
        lock: Experiments with the same lock never run at the same time. None: the experiment's name.
    """

    name: str
    config: Any
    program: str
    needs: tuple["Experiment", ...] = ()
    lock: str | None = None


Program = Callable[[Any], dict[str, Any]]  # runs a config, which names its own output; returns the results


def in_dependency_order(experiments: Iterable[Experiment]) -> list[Experiment]:
    """Return each experiment once, after those that it needs; otherwise in the order given."""
    ordered: dict[str, Experiment] = {}
    for experiment in experiments:
        for one in (*in_dependency_order(experiment.needs), experiment):
            ordered.setdefault(one.name, one)
    return list(ordered.values())


# --- Finished experiments ---------------------------------------------------------------------------------------------


def fingerprint(experiment: Experiment, output: Path) -> str:
    """Return a hash of the settings of the experiment and of all that it needs. It does not depend on the output."""
    needs = [fingerprint(need, output) for need in experiment.needs]
    return manifest.fingerprint([experiment.program, settings(experiment, output), needs])


def settings(experiment: Experiment, output: Path) -> dict[str, Any]:
    """Return the settings on which the result depends: without IGNORED_SETTINGS, and ADDED_LATER if one is unused."""
    return _without_ignored(redact_settings(asdict(experiment.config)), f"{output.absolute()}{os.sep}")


def _counts(key: str, value: Any) -> bool:
    return key not in IGNORED_SETTINGS and (key not in ADDED_LATER or value != ADDED_LATER[key])


def _without_ignored(value: Any, root: str) -> Any:
    """Drop ignored keys, and make paths below the output relative to it."""
    if isinstance(value, dict):
        return {key: _without_ignored(item, root) for key, item in value.items() if _counts(key, item)}
    if isinstance(value, list | tuple):
        return [_without_ignored(item, root) for item in value]
    return value.removeprefix(root) if isinstance(value, str) else value


def read_result(experiment: Experiment, output: Path) -> dict[str, Any] | None:
    """Return result.json; None if the experiment is not finished, or was run with other settings."""
    record = manifest.read_json(output / experiment.name / RESULT)
    return record if record and record["fingerprint"] == fingerprint(experiment, output) else None


def unfinished(experiments: Iterable[Experiment], output: Path) -> list[Experiment]:
    """Return the experiments that still have to run."""
    return [experiment for experiment in experiments if read_result(experiment, output) is None]


# --- Running ----------------------------------------------------------------------------------------------------------


def run_all(experiments: Sequence[Experiment], output: Path, program: Program) -> None:
    """Run the experiments that are not finished.

    Those that another process is running are skipped, and checked again until they are finished.

    Args:
        experiments: In dependency order.
        output: The folder that the processes share.
        program: Runs one config and returns its results.
    """
    (output / LOCKS).mkdir(parents=True, exist_ok=True)
    while left := unfinished(experiments, output):
        ready = (experiment for experiment in left if not unfinished(experiment.needs, output))
        if not any(_try_to_run(experiment, output, program) for experiment in ready):  # each run may make others ready
            time.sleep(POLL_S)


def set_aside(experiments: Iterable[Experiment], output: Path) -> None:
    """Rename the folders of these experiments, except those that a process is running now."""
    (output / LOCKS).mkdir(parents=True, exist_ok=True)
    for experiment in experiments:
        with _try_lock(experiment, output) as is_ours:
            if is_ours:
                _rename_old(output / experiment.name)


def _try_to_run(experiment: Experiment, output: Path, program: Program) -> bool:
    """Run the experiment unless another process runs it or has finished it meanwhile; return whether it ran here."""
    with _try_lock(experiment, output) as is_ours:
        if not is_ours or read_result(experiment, output) is not None:
            return False
        current = fingerprint(experiment, output)
        folder = output / experiment.name
        started_before = manifest.read_json(folder / STARTED)
        if started_before is not None and started_before["fingerprint"] != current:
            _rename_old(folder)
        is_resumed = started_before is not None and started_before["fingerprint"] == current
        (folder / WORK).mkdir(parents=True, exist_ok=True)
        # The program resumes what a killed process left in work/; only the seconds of that process are lost.
        manifest.write_json(folder / STARTED, {"fingerprint": current, "settings": settings(experiment, output)})
        started = time.monotonic()
        result = program(experiment.config)
        record = {
            "fingerprint": current,
            "figures": result,  # a key on disk: the numbers that the program returned
            "seconds": None if is_resumed else time.monotonic() - started,  # unknown for a resumed one
            "made_by": made_by(),
        }
        manifest.write_json(folder / RESULT, record)
        return True


@contextmanager
def _try_lock(experiment: Experiment, output: Path) -> Iterator[bool]:
    """Yield whether this process now holds the experiment's lock. The operating system frees it with the process."""
    lock = FileLock(output / LOCKS / f"{(experiment.lock or experiment.name).replace('/', '.')}.lock", timeout=0)
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
    """Return the machine, versions and commit that go into a result."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return {
        "machine": f"{os.cpu_count()} CPU cores, {gpu}",
        "versions": f"emage {__version__}, torch {torch.__version__}",
        "commit": provenance.commit(),
    }


def _rename_old(folder: Path) -> None:
    """Move a folder to the next free number: hours of work are not deleted because a setting changed."""
    if folder.exists():
        number = next(i for i in range(1, 10_000) if not folder.with_name(f"{folder.name}.{i}").exists())
        os.replace(folder, folder.with_name(f"{folder.name}.{number}"))
