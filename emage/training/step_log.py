"""The record of a training run: steps.jsonl, one JSON object a line, one line an optimizer step, no step twice.

    {"step": 12, "loss": 6.1, "lr": 0.0001, "grad_norm": 0.8, "samples": 123456789, ...}

Steps rise from line to line. A line counts once its newline is there: the last one may have been cut off by a kill.
Numbers come back with the same bits; NaN and infinity, which JSON lacks, are null. Logged steps have more keys.
"""

import json
import logging
import math
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from numbers import Integral, Real
from pathlib import Path
from threading import Event
from typing import Any, BinaryIO

import numpy as np

from emage.utils import manifest

_log = logging.getLogger(__name__)

_TAIL = 1 << 16  # bytes at the end of a file that are looked at first

# --- Writing ---------------------------------------------------------------------------------------------------------


class StepLog:
    """Where the steps of a run are written, by one process at a time.

    A full disk must not stop training: it gives one warning, and every later line is tried again.
    """

    def __init__(self, path: str | Path, start: int):
        """Drops the lines beyond step `start`, where training goes on, and a last line that was cut off."""
        self._path, self._start = Path(path), start
        self._file: Any = None
        self._end = 0  # bytes of the lines that are there as a whole
        self._failed = False
        self._attempt(self._open)

    def append(self, step: int, values: dict[str, Any]) -> None:
        """Writes the line of a step: names to numbers, text or None. It is in the file when this returns."""
        record = {"step": step} | {name: _plain(value) for name, value in values.items()}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        self._attempt(lambda: self._write(line))

    def sync(self) -> None:
        """Brings the lines to the disk. Before a checkpoint counts: the steps that it holds are not taken again."""
        self._attempt(lambda: os.fsync(self._open()))

    def close(self) -> None:
        if self._file is not None:
            self._attempt(self._file.close)

    def _open(self) -> int:
        """The open file's number; opens it where that has not worked yet."""
        if self._file is None:
            _drop(self._path, self._start)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - until `close`
            self._end = os.fstat(self._file.fileno()).st_size
        return self._file.fileno()

    def _write(self, line: bytes) -> None:
        if os.fstat(self._open()).st_size > self._end:  # the half of a line that a full disk had room for
            self._file.truncate(self._end)
        written = self._file.write(line)
        if written < len(line):
            raise OSError(f"only {written} of {len(line)} bytes of a line could be written")
        self._end += written

    def _attempt(self, write: Callable[[], object]) -> None:
        try:
            write()
            self._failed = False
        except OSError as error:
            if not self._failed:
                _log.warning("%s: %s; training goes on, its steps are not recorded meanwhile", self._path, error)
            self._failed = True


def _plain(value: Any) -> Any:
    """A NumPy number as Python's own; None for a float that is no number."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else None
    return value


def _drop(path: Path, beyond: int) -> None:
    """Leaves the whole lines up to step `beyond`, in a new file: a worker that outlived its driver may still write."""
    if not path.exists():
        return
    with manifest.new_file(path) as fresh, open(path, "rb") as old, open(fresh, "wb") as new:
        for line in old:
            if (record := _record(line)) and record["step"] <= beyond:
                new.write(line)
        new.flush()
        os.fsync(new.fileno())


# --- Reading ---------------------------------------------------------------------------------------------------------


def read(path: str | Path) -> Iterator[dict[str, Any]]:
    """The steps, one at a time. None where there is no file: nothing was trained yet."""
    if not Path(path).exists():
        return
    with open(path, "rb") as file:
        yield from filter(None, map(_record, file))


def columns(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """ "step" and each of `names`: float64 arrays of one entry a line, NaN where a line says nothing of it.

    Takes 8 bytes a number, so that 500,000 steps fit.
    """
    found = {name: array("d") for name in ("step", *names)}
    for record in read(path):
        for name, column in found.items():
            value = record.get(name)
            column.append(math.nan if value is None else value)
    return {name: np.array(column) for name, column in found.items()}


def last_step(path: str | Path) -> int:
    """The last step on record, 0 where there is none. Reads the end of the file alone."""
    if not Path(path).exists():
        return 0
    with open(path, "rb") as file:
        record = _last(file)[1]
    return record["step"] if record else 0


def follow(path: str | Path, stop: Event, every_s: float = 0.5) -> Iterator[dict[str, Any]]:
    """The lines of a run that goes on, as they come, until `stop` is set and what is there by then was read.

    What a file holds when this is called is old, but for its last line, which tells where the run stands. The same
    goes for a file that took its place or became shorter: there a run was resumed. The file need not be there yet.
    """
    return _follow(path, stop, every_s, *_stand(path))


def _follow(path: str | Path, stop: Event, every_s: float, known: int | None, offset: int) -> Iterator[dict[str, Any]]:
    """`known`: the number of the file (inode) that was read up to `offset`; None where there was none."""
    while True:
        stopping = stop.is_set()  # before the look: what was written before is seen
        data = b""
        with suppress(FileNotFoundError), open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if known not in (None, status.st_ino) or status.st_size < offset:
                offset = _last(file)[0]
            known = status.st_ino
            file.seek(offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        offset += len(whole)
        yield from filter(None, map(_record, whole.splitlines(keepends=True)))
        if stopping:
            return
        stop.wait(every_s)


def _stand(path: str | Path) -> tuple[int | None, int]:
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_ino, _last(file)[0]
    except FileNotFoundError:
        return None, 0


def _record(line: bytes) -> dict[str, Any] | None:
    """What a line says, or None for one that was not written to its end."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _last(file: BinaryIO) -> tuple[int, dict[str, Any] | None]:
    """Where the last whole line starts, in bytes, and what it says; (0, None) where there is none."""
    size, tail = file.seek(0, os.SEEK_END), _TAIL
    while True:
        start = file.seek(max(0, size - tail))
        lines = file.read(size - start).splitlines(keepends=True)
        place = size
        for line in reversed(lines if start == 0 else lines[1:]):  # the first may have begun before
            place -= len(line)
            if record := _record(line):
                return place, record
        if start == 0:
            return 0, None
        tail *= 4
