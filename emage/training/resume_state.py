"""Checkpoints for resuming: all that a step depends on, in files that any number of processes can go on from.

folder/step_00005000/
    weights.safetensors    the network's parameters and buffers
    moments.safetensors    AdamW's, whole, under the parameters' names
    average.safetensors    the averaged weights, with optim.ema
    manifest.json          steps, updates, the guard's state, sizes and sha256 of the files; written last

A folder takes its name when it is complete. One that is damaged afterwards is passed over for the one before.
"""

import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from emage.tokenizers import weight_files as weights
from emage.utils import manifest
from emage.utils.errors import InputError

FILES = ("weights", "moments", "average")

_log = logging.getLogger(__name__)


class State(NamedTuple):
    """What training goes on from."""

    facts: dict[str, Any]  # step: optimizer steps done; updates: those that were taken; guard; world_size
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]  # "exp_avg.NAME" and "exp_avg_sq.NAME" of every trained parameter
    average: dict[str, Tensor] | None


def save(folder: Path, state: State) -> Path:
    """Writes a checkpoint and returns its folder. An OSError (disk full) leaves the earlier ones as they are."""
    target = folder / f"step_{state.facts['step']:08d}"
    with manifest.new_folder(target) as fresh:
        for name in FILES:
            if (tensors := getattr(state, name)) is not None:
                weights.write(tensors, fresh / f"{name}.safetensors")
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": manifest.sha256(file)}
            for file in sorted(fresh.iterdir())
        }
        manifest.write_json(fresh / manifest.NAME, {**state.facts, "files": files})
    return target


def newest(folder: Path) -> Path | None:
    """The last checkpoint that is whole, or None where there is none at all. Damaged ones after it are deleted.

    Raises InputError where all are damaged: to begin again is for a person to decide.
    """
    damaged = []
    for path in sorted(folder.glob("step_*"), reverse=True):
        if (damage := _damage(path)) is None:
            for other in damaged:  # they would count among those that are kept
                shutil.rmtree(other, ignore_errors=True)
            return path
        _log.warning("%s is passed over for the checkpoint before it: %s", path, damage)
        damaged.append(path)
    if damaged:
        raise InputError(f"{folder}: every checkpoint is damaged; restore one, or delete them to begin at step 0")
    return None


def load(path: Path) -> State:
    """A checkpoint that `newest` has found whole."""
    tensors = {name: _tensors(path / f"{name}.safetensors") for name in FILES}
    facts = manifest.read_json(path / manifest.NAME)
    return State(facts, tensors["weights"] or {}, tensors["moments"] or {}, tensors["average"])


def prune(folder: Path, keep: int, keep_every: int) -> None:
    """Deletes all but the newest `keep` checkpoints and those whose step is a multiple of `keep_every` (0: none)."""
    for path in sorted(folder.glob("step_*"))[:-keep]:
        step = int(path.name.removeprefix("step_"))
        if not keep_every or step % keep_every:
            shutil.rmtree(path, ignore_errors=True)


def _damage(path: Path) -> str | None:
    try:
        return _difference(path)
    except OSError as error:  # a disk that goes bad
        return str(error)


def _difference(path: Path) -> str | None:
    """What is not as the manifest says."""
    try:
        record = manifest.read_json(path / manifest.NAME)
    except ValueError:
        record = None
    if not isinstance(record, dict) or "files" not in record:
        return f"no {manifest.NAME} that can be read"
    for name, known in record["files"].items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if (size := file.stat().st_size) != known["bytes"]:
            return f"{name} has {size} bytes, not {known['bytes']}"
        if manifest.sha256(file) != known["sha256"]:
            return f"the bytes of {name} have changed"
    return None


def _tensors(file: Path) -> dict[str, Tensor] | None:
    return load_file(file) if file.exists() else None
