"""The log of a training run, steps.jsonl: one JSON object per line, one line per optimizer step, no step twice.

    {"step": 12, "loss": 6.1, "lr": 0.0001, "grad_norm": 0.8, "samples": 123456789, ...}

The keys are those of step_metrics. Steps rise from line to line. A line counts when it ends with a newline: a kill may
leave an incomplete last line. Numbers are read back with the same bits; NaN and infinity, which JSON lacks, are null.
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

_TAIL_BYTES = 1 << 16  # read first when the last line is looked for


class StepLog:
    """Writes the steps of a run. One process may have it open at a time.

    A full disk does not stop training: there is one warning, and every later line is attempted again.

    Args:
        path: The file; it is created at the first line.
        start: Steps done. Lines of later steps, and an incomplete last line, are removed.
    """

    def __init__(self, path: str | Path, start: int):
        self._path, self._start = Path(path), start
        self._file: Any = None
        self._complete_bytes = 0  # of complete lines
        self._failed = False
        self._attempt(self._open)

    def append(self, step: int, values: dict[str, Any]) -> None:
        """Write the line of a step; the operating system has it when this returns.

        Args:
            step: Number of the step, counted from 1.
            values: Name -> number, text, list or None.
        """
        record = {"step": step} | {name: _plain(value) for name, value in values.items()}
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        self._attempt(lambda: self._write(line))

    def sync(self) -> None:
        """Flush the lines to the disk. Call it before saving a checkpoint, since steps before it are not run again."""
        self._attempt(lambda: os.fsync(self._open()))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._attempt(self._file.close)

    def _open(self) -> int:
        """Return the descriptor of the file; open it if that has not worked yet."""
        if self._file is None:
            _truncate(self._path, self._start)
            self._file = open(self._path, "ab", buffering=0)  # noqa: SIM115 - until `close`
            self._complete_bytes = os.fstat(self._file.fileno()).st_size
        return self._file.fileno()

    def _write(self, line: bytes) -> None:
        if os.fstat(self._open()).st_size > self._complete_bytes:  # an incomplete line, from when the disk was full
            self._file.truncate(self._complete_bytes)
        written = self._file.write(line)
        if written < len(line):
            raise OSError(f"only {written} of {len(line)} bytes of a line could be written")
        self._complete_bytes += written

    def _attempt(self, write: Callable[[], object]) -> None:
        try:
            write()
            self._failed = False
        except OSError as error:
            if not self._failed:
                _log.warning("%s: %s; training continues, its steps are not recorded meanwhile", self._path, error)
            self._failed = True


def _plain(value: Any) -> Any:
    """Return a NumPy number as a Python number, and None for a float that is not finite."""
    if isinstance(value, Integral) and not isinstance(value, bool):
        return int(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else None
    return value


def _truncate(path: Path, last_step: int) -> None:
    """Keep the complete lines up to a step, in a new file: a worker that outlived its driver may still write."""
    if not path.exists():
        return
    with manifest.new_file(path) as fresh, open(path, "rb") as old, open(fresh, "wb") as new:
        for line in old:
            if (record := _parse(line)) and record["step"] <= last_step:
                new.write(line)
        new.flush()
        os.fsync(new.fileno())


def read(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of the log, as dicts. A missing file has none."""
    if not Path(path).exists():
        return
    with open(path, "rb") as file:
        yield from filter(None, map(_parse, file))


def columns(path: str | Path, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Return "step" and each of `names` as float64 arrays of one entry per line, NaN if a line lacks the key.

    Takes 8 bytes per number, so that 500,000 steps fit in memory.
    """
    entries = {name: array("d") for name in ("step", *names)}
    for record in read(path):
        for name, column in entries.items():
            value = record.get(name)
            column.append(math.nan if value is None else value)
    return {name: np.array(column) for name, column in entries.items()}


def last_step(path: str | Path) -> int:
    """Return the last step of the log, 0 if there is none. Reads only the end of the file."""
    if not Path(path).exists():
        return 0
    with open(path, "rb") as file:
        record = _last_record(file)[1]
    return record["step"] if record else 0


def follow(path: str | Path, stop: Event, every_s: float = 0.5) -> Iterator[dict[str, Any]]:
    """Yield the lines of a running training as they are written, until `stop` is set and the rest has been read.

    Of the lines that a file has when this is called, only the last is yielded. The same holds for a file that replaced
    it or became shorter, which means that the run was resumed. The file need not exist yet.

    Args:
        path: The log.
        stop: Ends the iteration.
        every_s: Seconds between two reads of the file.
    """
    return _follow(path, stop, every_s, *_position(path))


def _follow(path: str | Path, stop: Event, every_s: float, inode: int | None, offset: int) -> Iterator[dict[str, Any]]:
    """Yield the lines after `offset` of the file with this inode, which is None if there was no file."""
    while True:
        stopping = stop.is_set()  # before the read: lines that were written before it was set are read
        data = b""
        with suppress(FileNotFoundError), open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if inode not in (None, status.st_ino) or status.st_size < offset:
                offset = _last_record(file)[0]
            inode = status.st_ino
            file.seek(offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        offset += len(complete)
        yield from filter(None, map(_parse, complete.splitlines(keepends=True)))
        if stopping:
            return
        stop.wait(every_s)


def _position(path: str | Path) -> tuple[int | None, int]:
    """Return the file's inode and the offset of its last complete line."""
    try:
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_ino, _last_record(file)[0]
    except FileNotFoundError:
        return None, 0


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return the line as a dict, or None if it is incomplete."""
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _last_record(file: BinaryIO) -> tuple[int, dict[str, Any] | None]:
    """Return the offset and the content of the last complete line; (0, None) if there is none."""
    size, tail = file.seek(0, os.SEEK_END), _TAIL_BYTES
    while True:
        start = file.seek(max(0, size - tail))
        lines = file.read(size - start).splitlines(keepends=True)
        offset = size
        for line in reversed(lines if start == 0 else lines[1:]):  # the first may be incomplete
            offset -= len(line)
            if record := _parse(line):
                return offset, record
        if start == 0:
            return 0, None
        tail *= 4
