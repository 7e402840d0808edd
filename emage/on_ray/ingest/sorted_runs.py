"""Sorting what does not fit in memory: runs, each in the order of a 64-bit hash, from which any range of it is read.

A run is two files, `NAME.arrow` with the rows and `NAME.npy` with their hashes; the second is written last, so a run
exists when it does. Only the range that is asked for is read. Rows of equal hash are in the order of a second column.
The rows are whatever the caller wants.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from emage.utils import manifest

CHUNK = 1_024  # rows of an Arrow record batch, the least that is read of a run


def mixed(numbers: np.ndarray, seed: int = 0) -> np.ndarray:
    """(n,) of 64 bits -> (n,) uint64, evenly spread, equal only where `numbers` are: splitmix64's mixing function."""
    x = numbers.astype(np.uint64) + np.uint64(seed % (1 << 64)) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def bounds(num_ranges: int) -> np.ndarray:
    """(num_ranges,) uint64: where each of so many equal ranges of hashes begins."""
    return np.array([(n << 64) // num_ranges for n in range(num_ranges)], np.uint64)


def write(path: Path, rows: pa.Table, order: np.ndarray, tie: str) -> None:
    """Sorts `rows` by (`order`, column `tie`) and writes them as the run `path`."""
    rows, order = _sorted(rows, order, tie)
    with (
        manifest.new_file(path.with_suffix(".arrow")) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, rows.schema) as file,
    ):
        file.write_table(rows, max_chunksize=CHUNK)
    with manifest.new_file(path.with_suffix(".npy")) as temporary, open(temporary, "wb") as file:
        np.save(file, order)


def exists(path: Path) -> bool:
    return path.with_suffix(".npy").exists()


def num_rows(path: Path) -> int:
    return len(_order(path))


def starts(path: Path, num_ranges: int) -> np.ndarray:
    """(num_ranges + 1,): how many of the run's rows are in front of each of the equal ranges, last all of them."""
    order = _order(path)
    return np.append(np.searchsorted(order, bounds(num_ranges)), len(order))


def read(paths: Sequence[Path], first: int, last: int, num_ranges: int, tie: str) -> tuple[pa.Table, np.ndarray]:
    """The rows of ranges first to last - 1 from all runs, sorted, and their hashes."""
    edges = bounds(num_ranges)
    pieces, orders = [], []
    for path in paths:
        order = _order(path)
        low = int(np.searchsorted(order, edges[first]))
        high = int(np.searchsorted(order, edges[last])) if last < num_ranges else len(order)
        pieces.append(_rows(path, low, high))
        orders.append(np.array(order[low:high]))  # a copy: a view would keep the file open, and there are thousands
    return _sorted(pa.concat_tables(pieces), np.concatenate(orders), tie)


def _rows(path: Path, low: int, high: int) -> pa.Table:
    """Rows low to high - 1, reading the record batches that hold them and no other."""
    with pa.OSFile(str(path.with_suffix(".arrow"))) as source, pa.ipc.open_file(source) as file:
        first = low // CHUNK
        batches = [file.get_batch(i) for i in range(first, -(-high // CHUNK))]
        return pa.Table.from_batches(batches, file.schema).slice(low - first * CHUNK, high - low)


def _order(path: Path) -> np.ndarray:
    return np.load(path.with_suffix(".npy"), mmap_mode="r")


def _sorted(rows: pa.Table, order: np.ndarray, tie: str) -> tuple[pa.Table, np.ndarray]:
    places = np.lexsort((rows[tie].to_numpy(), order))
    return rows.take(pa.array(places)), order[places]
