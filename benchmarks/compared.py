"""What a benchmark found, beside what it found when its results were last written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FALL = 0.15  # a ratio that is so much smaller than before is told


def write(path: Path, record: dict[str, Any], ratios: Mapping[str, float]) -> list[str]:
    """Writes the record with its `ratios`, larger being better; returns a warning for each that has fallen.

    Ratios of another device do not compare.
    """
    before = _read(path)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**record, "ratios": dict(ratios)}, indent=1) + "\n")
    if before.get("device") != record["device"]:
        return []
    old = {name: value for name, value in before.get("ratios", {}).items() if name in ratios}
    return [
        f"warning: {name} fell from {value:.2f} to {ratios[name]:.2f} (more than {FALL:.0%})"
        for name, value in old.items()
        if ratios[name] < (1 - FALL) * value
    ]


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
