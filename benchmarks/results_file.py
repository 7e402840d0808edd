"""The results file of a benchmark: written atomically, and compared with the results of the run before."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_DECREASE = 0.15  # of a ratio since the run before, without a warning


def read(path: Path) -> dict[str, Any]:
    """Return the results that were written last; empty if there are none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write the results, completely or not at all."""
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(fresh, path)


def decreases(before: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """Return a warning for each of the `ratios` (larger is better) that has decreased on the same device."""
    if before.get("device") != record["device"]:
        return []
    old, new = before.get("ratios", {}), record["ratios"]
    return [
        f"warning: {name} fell from {value:.2f} to {new[name]:.2f}, by more than {MAX_DECREASE:.0%}"
        for name, value in old.items()
        if name in new and new[name] < (1 - MAX_DECREASE) * value
    ]
