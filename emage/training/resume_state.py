"""Checkpoints for resuming: everything that the next step depends on, as whole tensors, for any number of workers.

folder/step_00005000/
    weights.safetensors    parameters and buffers of the network
    moments.safetensors    the optimizer's moments, under the parameters' names
    average.safetensors    EMA weights, with optim.ema
    manifest.json          steps, updates, state of the spike guard, sizes and sha256 of the files; written last

A folder gets its name when it is complete. If it is damaged later, the checkpoint before it is used.
"""

import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor

from emage.tokenizers import weight_files
from emage.utils import manifest
from emage.utils.errors import InputError

FILES = {"weights": "weights.safetensors", "moments": "moments.safetensors", "ema": "average.safetensors"}

_log = logging.getLogger(__name__)


class ResumeState(NamedTuple):
    """The state from which a training resumes.

    Attributes:
        metadata: `step`: optimizer steps done; `updates`: those of them that were applied; `guard`: SpikeGuard.state();
            `world_size`: number of workers of the run that saved it.
        weights: Parameters and buffers of the network, by name.
        moments: The optimizer's, of every trained parameter: AdamW's "exp_avg.NAME" and "exp_avg_sq.NAME", or Muon's
            "momentum_buffer.NAME".
        ema: EMA weights, or None without optim.ema.
    """

    metadata: dict[str, Any]
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]
    ema: dict[str, Tensor] | None


def save(folder: Path, state: ResumeState) -> Path:
    """Write a checkpoint into `folder` and return its own folder.

    Raises:
        OSError: The disk is full, for example. Earlier checkpoints stay as they are.
    """
    target = folder / f"step_{state.metadata['step']:08d}"
    with manifest.new_folder(target) as fresh:
        for field, name in FILES.items():
            if (tensors := getattr(state, field)) is not None:
                weight_files.write(tensors, fresh / name)
        files = {
            file.name: {"bytes": file.stat().st_size, "sha256": manifest.sha256(file)}
            for file in sorted(fresh.iterdir())
        }
        manifest.write_json(fresh / manifest.NAME, {**state.metadata, "files": files})
    return target


def newest(folder: Path) -> Path | None:
    """Return the newest undamaged checkpoint, or None if there is no checkpoint. Delete damaged ones after it.

    Raises:
        InputError: All are damaged. The user decides whether to start again from step 0.
    """
    damaged = []
    for path in sorted(folder.glob("step_*"), reverse=True):
        if (damage := _damage(path)) is None:
            for other in damaged:  # or `prune` would count them among the newest
                shutil.rmtree(other, ignore_errors=True)
            return path
        _log.warning("%s is skipped for the checkpoint before it: %s", path, damage)
        damaged.append(path)
    if damaged:
        raise InputError(f"{folder}: every checkpoint is damaged; restore one, or delete them to begin at step 0")
    return None


def load(path: Path) -> ResumeState:
    """Read a checkpoint that `newest` has returned."""
    tensors = {field: _tensors(path / name) for field, name in FILES.items()}
    metadata = manifest.read_json(path / manifest.NAME)
    return ResumeState(metadata, tensors["weights"] or {}, tensors["moments"] or {}, tensors["ema"])


def prune(folder: Path, keep: int, keep_every: int) -> None:
    """Delete all checkpoints except the newest `keep` and those at multiples of `keep_every` steps (0: none)."""
    for path in sorted(folder.glob("step_*"))[:-keep]:
        step = int(path.name.removeprefix("step_"))
        if not keep_every or step % keep_every:
            shutil.rmtree(path, ignore_errors=True)


def _damage(path: Path) -> str | None:
    """Return what is wrong with a checkpoint, or None."""
    try:
        return _difference_from_manifest(path)
    except OSError as error:  # a failing disk
        return str(error)


def _difference_from_manifest(path: Path) -> str | None:
    try:
        record = manifest.read_json(path / manifest.NAME)
    except ValueError:
        record = None
    if not isinstance(record, dict) or "files" not in record:
        return f"{manifest.NAME} is missing or unreadable"
    for name, listed in record["files"].items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if (size := file.stat().st_size) != listed["bytes"]:
            return f"{name} has {size} bytes, not {listed['bytes']}"
        if manifest.sha256(file) != listed["sha256"]:
            return f"the bytes of {name} have changed"
    return None


def _tensors(file: Path) -> dict[str, Tensor] | None:
    return load_file(file) if file.exists() else None
