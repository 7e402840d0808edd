"""Finished work is a folder with a manifest, written under a temporary name and renamed last."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from emage.utils.errors import InputError
from emage.utils.redact import redact_settings

NAME = "manifest.json"


def sha256(path: str | Path) -> str:
    """Return the hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def fingerprint(value: Any) -> str:
    """Return the hex digest of a JSON-serialisable value; equal values give equal digests."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically: a reader sees the old file or the new one."""
    with new_file(path) as temporary, open(temporary, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def read_json(path: str | Path) -> Any:
    """Return the JSON value in a file, or None if the file does not exist. Raise InputError if it is damaged."""
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, RecursionError) as error:
        reason = "it is empty" if not os.path.getsize(path) else f"no JSON: {error}"
        raise InputError(f"{path} is damaged ({reason}); delete this file and run the same command again") from None


def check_outputs(folder: Path, names: Collection[str]) -> list[Path]:
    """Return the paths of some files of a finished folder, if their content is what was written.

    Args:
        folder: Its manifest has the sha256 of each file under "outputs".
        names: Of the files.

    Raises:
        InputError: The sha256 of a file is another one.
    """
    listed = (read_json(folder / NAME) or {}).get("outputs", {})
    for name in names:
        if not (folder / name).is_file() or sha256(folder / name) != listed.get(name):
            raise InputError(
                f"{folder / name} is damaged: it is not the file that {NAME} next to it lists; delete the folder "
                f"{folder} and run the same command again, which makes it again"
            )
    return [folder / name for name in names]


@contextmanager
def new_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; renamed to `path` after the block, or removed if the block raises.

    The content is on the disk before the file has its name, so that a power failure leaves no empty file of this name.
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: str | Path, replace: bool = True) -> Iterator[Path]:
    """Yield a temporary folder next to `folder`; it is renamed to it after the block, or removed if the block raises.

    A `folder` that exists is replaced or, without `replace`, kept if it has a manifest: another process was first. The
    caller writes the manifest inside the block, last. All content is on the disk before the folder has its name.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(folder)
    temporary.mkdir()
    try:
        yield temporary
        for path in sorted(temporary.rglob("*"), reverse=True):  # a folder after what is in it
            _sync(path)
        _sync(temporary)
        if folder.exists() and (replace or not (folder / NAME).exists()):
            old = _temporary_name(folder)  # out of sight at once: half of a folder must not look like one
            os.replace(folder, old)
            shutil.rmtree(old)
        with suppress(OSError) if folder.exists() else nullcontext():  # a folder that is not empty is not replaced
            os.replace(temporary, folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError) if path.is_dir() else nullcontext():  # some network file systems sync no folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | Path) -> None:
    """Delete temporary files of killed processes. Call it only while no other process writes there."""
    for leftover in Path(folder).glob(".*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def _temporary_name(path: Path) -> Path:
    """Return a unique temporary name: two nodes may have processes of the same id."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}")


def claim_output(folder: str | Path, program: str, identity: dict[str, Any]) -> None:
    """Record in `folder` that it is the output of this run; if it already is, the run is resumed.

    Args:
        folder: A new or empty folder, or the output of an earlier run of the same command.
        program: Name of the program.
        identity: The settings on which the result depends, as nested dicts. Secrets in addresses do not count, since
            they may change, and are not recorded.

    Raises:
        InputError: The folder holds another run (the message names a setting that differs) or other files. Nothing has
            been written then.
    """
    if "://" in str(folder):
        raise InputError(f"{folder}: an output is a folder that every node sees, not a URL")
    folder, identity = Path(folder), redact_settings(identity)
    try:
        known = read_json(folder / "run.json") if folder.is_dir() else None
    except InputError:
        raise InputError(f"{folder / 'run.json'} is damaged; choose another output= or delete the folder") from None
    if known is None:
        if folder.exists() and (not folder.is_dir() or any(not file.name.startswith(".") for file in folder.iterdir())):
            raise InputError(f"{folder} already exists and is not an output of {program}; choose another output=")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "run.json", {"program": program, "settings": identity})
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another output=") from None
        return
    if known["program"] != program:
        raise InputError(f"{folder} holds the output of {known['program']}, not of {program}; choose another output=")
    before, now = _flat(redact_settings(known["settings"])), _flat(json.loads(json.dumps(identity)))
    if changed := sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key)):
        key = changed[0]
        raise InputError(
            f"{folder} already holds a run with {key}={before.get(key)} (now {now.get(key)}); "
            "choose another output= or delete the folder"
        )


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted keys: {"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat
