"""A unit of finished work is a folder or file whose manifest exists: written elsewhere, renamed last."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

NAME = "manifest.json"


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(value: Any) -> str:
    """Hex digest of any JSON-able value; equal values give equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never half of it."""
    temporary = f"{path}.{os.getpid()}.tmp"
    with open(temporary, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_json(path: str | Path) -> Any:
    """The JSON value in a file, or None where the file does not exist."""
    try:
        with open(path) as file:
            return json.load(file)
    except FileNotFoundError:
        return None
