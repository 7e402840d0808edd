"""Results of a benchmark: kept whole, and compared with those that were there before."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FALL = 0.15  # a ratio that is so much smaller than before is told


def read(path: Path) -> dict[str, Any]:
    """The results that were written last; empty where there are none."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def write(path: Path, record: Mapping[str, Any]) -> None:
    """All or nothing: a run may end at any time."""
    path.parent.mkdir(exist_ok=True)
    fresh = path.with_suffix(".tmp")
    fresh.write_text(json.dumps(record, indent=1) + "\n")
    os.replace(fresh, path)


def fallen(before: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    """A warning for each of the `ratios` (larger is better) that has fallen. Another device's do not compare."""
    if before.get("device") != record["device"]:
        return []
    old, new = before.get("ratios", {}), record["ratios"]
    return [
        f"warning: {name} fell from {value:.2f} to {new[name]:.2f}, by more than {FALL:.0%}"
        for name, value in old.items()
        if name in new and new[name] < (1 - FALL) * value
    ]
