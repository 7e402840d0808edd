"""External sorting: sorted runs of rows, each in the order of a 64-bit hash, from which any range of hashes is read.

A sorted run is two files, `NAME.arrow` with the rows and `NAME.npy` with their hashes; the second is written last, so a
run is complete if it exists. Only the requested range is read. Rows of equal hash are in the order of a second column.
The rows may have any columns.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from emage.utils import manifest

CHUNK_ROWS = 1_024  # per Arrow record batch, the smallest piece that is read of a run


def mix(numbers: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return evenly distributed hashes, equal only for equal numbers: splitmix64's mixing function.

    Args:
        numbers: (n,) of 64 bits.
        seed: Another seed gives other hashes.

    Returns:
        (n,) uint64.
    """
    x = numbers.astype(np.uint64) + np.uint64(seed % (1 << 64)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def range_bounds(num_ranges: int) -> np.ndarray:
    """Return (num_ranges,) uint64: the first hash of each of `num_ranges` equal ranges."""
    return np.array([(n << 64) // num_ranges for n in range(num_ranges)], np.uint64)


def sort(rows: pa.Table, hashes: np.ndarray, tie_column: str) -> tuple[pa.Table, np.ndarray]:
    """Return rows and their hashes in the order of (`hashes`, `tie_column`)."""
    order = np.lexsort((rows[tie_column].to_numpy(), hashes))
    return rows.take(pa.array(order)), hashes[order]


def write(path: Path, rows: pa.Table, hashes: np.ndarray) -> None:
    """Write rows and their hashes, both in the order of `sort`, as the run `path`."""
    with (
        manifest.new_file(path.with_suffix(".arrow")) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, rows.schema) as file,
    ):
        file.write_table(rows, max_chunksize=CHUNK_ROWS)
    with manifest.new_file(path.with_suffix(".npy")) as temporary, open(temporary, "wb") as file:
        np.save(file, hashes)


def exists(path: Path) -> bool:
    """Return True if the run is complete."""
    return path.with_suffix(".npy").exists()


def num_rows(path: Path) -> int:
    """Return the number of rows of a run."""
    return len(_hashes(path))


def rows_before_ranges(path: Path, num_ranges: int) -> np.ndarray:
    """Return (num_ranges + 1,): the number of the run's rows before each of the equal ranges; the last is all rows."""
    hashes = _hashes(path)
    return np.append(np.searchsorted(hashes, range_bounds(num_ranges)), len(hashes))


def read_ranges(
    paths: Sequence[Path], first: int, last: int, num_ranges: int, tie_column: str
) -> tuple[pa.Table, np.ndarray]:
    """Return the rows of the ranges `first` to `last` - 1 from all runs, sorted, and their hashes."""
    bounds = range_bounds(num_ranges)
    pieces, hashes = [], []
    for path in paths:
        of_run = _hashes(path)
        low = int(np.searchsorted(of_run, bounds[first]))
        high = int(np.searchsorted(of_run, bounds[last])) if last < num_ranges else len(of_run)
        pieces.append(_read_rows(path, low, high))
        hashes.append(np.array(of_run[low:high]))  # a copy: a view would keep the file open, and there are thousands
    return sort(pa.concat_tables(pieces), np.concatenate(hashes), tie_column)


def _read_rows(path: Path, low: int, high: int) -> pa.Table:
    """Return rows `low` to `high` - 1, reading only the record batches that hold them."""
    with pa.OSFile(str(path.with_suffix(".arrow"))) as source, pa.ipc.open_file(source) as file:
        first = low // CHUNK_ROWS
        batches = [file.get_batch(i) for i in range(first, -(-high // CHUNK_ROWS))]
        return pa.Table.from_batches(batches, file.schema).slice(low - first * CHUNK_ROWS, high - low)


def _hashes(path: Path) -> np.ndarray:
    return np.load(path.with_suffix(".npy"), mmap_mode="r")
