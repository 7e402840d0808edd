"""manifest.json of a checkpoint: which keys it has. It may be a stranger's, and ends in one's own model card."""

from pathlib import Path
from typing import Any

from emage.data.schema import TOKENIZER_KEYS
from emage.utils import manifest
from emage.utils.untrusted import plain_data
from emage.utils.untrusted.plain_data import Each

NUMBER = (int, float)
SCORE_KEYS = {"figures": Each(NUMBER), "captions": int, "file": str, "settings": Each(None)}
# Key -> shape of its value (plain_data.select). Other keys are left out when a checkpoint is read.
KEYS: dict[str, Any] = {
    "emage": str,  # the version that wrote it
    "tokenizer": TOKENIZER_KEYS,
    "files": Each(str),  # file -> sha256
    "step": int,
    "method": str,
    "data": {"path": str, "rows": int, "fingerprint": str},
    "git": (str, type(None)),
    "mlflow_run": (str, type(None)),
    "metrics": Each((*NUMBER, type(None))),  # of the last steps
    "settings": Each(None),  # of the training
    "seconds": NUMBER,
    "prompts": [str],
    "scores": Each(SCORE_KEYS),
    "license": str,
}


def read(folder: str | Path) -> dict[str, Any]:
    """Return the known keys of a checkpoint's manifest. Raises ValueError, or OSError if it cannot be read."""
    return known_keys(read_any(folder))


def read_any(folder: str | Path) -> Any:
    """Return the value in manifest.json, whatever wrote it. Raises ValueError, or OSError if it cannot be read."""
    return plain_data.read_json(Path(folder) / manifest.NAME)


def known_keys(record: Any) -> dict[str, Any]:
    """Return the known keys of a manifest's value. Raises ValueError if one has a value of the wrong type."""
    record = plain_data.select(record, KEYS)
    for name, score in record.get("scores", {}).items():
        if missing := next((key for key in SCORE_KEYS if key not in score), None):
            raise ValueError(f"scores.{name[:50]} has no {missing}")
    return record


def version(record: Any) -> str | None:
    """Return the version of emage that wrote a manifest, if its value names one."""
    found = record.get("emage") if isinstance(record, dict) else None
    return found if isinstance(found, str) and found.isprintable() and len(found) < 50 else None
