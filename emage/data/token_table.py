"""Reads the token table in training order: the rows of a step are a function of (seed, step) alone.

Epoch e visits the row groups in an order drawn from (seed, e), and the rows within each in one drawn from
(seed, e, group). The table was shuffled globally at ingest, so rows near each other are strangers already.

A place is a row's number in the endless training order, epoch after epoch; a position is a row group's number in it.
While one group is used, threads read and decode the next ones.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import torch
from torch import Tensor

from emage.data.schema import TokenizerInfo, footer, open_token_table
from emage.utils import storage
from emage.utils.errors import InputError

PAUSES = (0.5, 2.0)  # seconds before a row group that could not be read is tried again
READERS = 2  # threads that decode row groups
FOOTERS = 16  # threads that read footers at the start: in object storage each is a wait of its own


class Batch(NamedTuple):
    """Rows of one global step, or a rank's share of them."""

    uid: list[int]
    captions: list[str]
    y: Tensor  # (B,N) int64
    seeds: list[int]  # one a row, from (seed, step, place): masks and sampled tokens are drawn from them


class Group(NamedTuple):
    """A decoded row group: its rows as they are stored, and the order in which an epoch takes them."""

    uid: np.ndarray  # (rows,) int64
    captions: pa.Array  # as text, not as Python's strings: those are made a batch at a time
    tokens: np.ndarray  # (rows,N) uint16
    order: np.ndarray  # (rows,) int64


class TokenTable:
    """Random access to the rows of a token table, here or in object storage.

    Holds at most `groups_in_memory` decoded row groups: the one in use and those that follow. A seed is one of
    numpy's, 0 or more. Raises InputError where `path` is no token table, or a file of it is damaged or another's.
    """

    def __init__(self, path: str, seed: int, groups_in_memory: int = 3):
        self.seed, self._keep = seed, groups_in_memory
        self._filesystem, _ = storage.find(path)
        files, self.tokenizer = open_token_table(path)
        sizes = _group_sizes(self._filesystem, files, self.tokenizer)
        self._groups = [(file, i) for file, rows in zip(files, sizes, strict=True) for i in range(len(rows))]
        self._sizes = np.array([rows for of_file in sizes for rows in of_file], dtype=np.int64)
        self.num_rows = int(self._sizes.sum())
        if not self.num_rows:
            raise InputError(f"{path}: the token table has no rows")
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # groups in order, rows up to the end of each
        self._decoded: dict[int, Future[Group]] = {}  # by position
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="token-table")
        self._lock = Lock()

    def batch(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Batch:
        """This rank's rows of global step `step`: places [B*rank//world_size, B*(rank+1)//world_size) of its B.

        Raises InputError where a file has vanished or is damaged since the table was opened.
        """
        start, stop = (step * batch_size + batch_size * r // world_size for r in (rank, rank + 1))
        y = np.empty((stop - start, self.tokenizer.num_tokens), np.int64)
        uid: list[int] = []
        captions: list[str] = []
        with self._lock:
            while (place := start + len(uid)) < stop:
                position, first = self._find(place)
                group = self._group(position)
                rows = group.order[first : first + stop - place]
                y[len(uid) : len(uid) + len(rows)] = group.tokens[rows]
                uid += group.uid[rows].tolist()
                captions += group.captions.take(pa.array(rows)).to_pylist()
            self._read_ahead(self._find(start + batch_size)[0])
        return Batch(uid, captions, torch.from_numpy(y), [_key(self.seed, place) for place in range(start, stop)])

    def close(self) -> None:
        """Stops reading ahead. A table that is garbage stops by itself."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _find(self, place: int) -> tuple[int, int]:
        """A place's position, and its row there."""
        epoch, row = divmod(place, self.num_rows)
        _, ends = self._epoch(epoch)
        i = int(np.searchsorted(ends, row, side="right"))
        return epoch * len(self._groups) + i, row - (int(ends[i - 1]) if i else 0)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if epoch not in self._epochs:
            groups = np.random.default_rng([self.seed, epoch]).permutation(len(self._groups))
            while len(self._epochs) > 1:  # at an epoch's border its groups are in use, and the next one's are read
                del self._epochs[next(iter(self._epochs))]
            self._epochs[epoch] = groups, self._sizes[groups].cumsum()
        return self._epochs[epoch]

    def _group(self, position: int) -> Group:
        self._read_ahead(position)
        try:
            return self._decoded[position].result()
        except InputError:
            del self._decoded[position]  # who asks again may be luckier: storage comes back
            raise

    def _read_ahead(self, position: int) -> None:
        """Has the group at `position` and those after it read, and lets go of all others."""
        wanted = range(position, position + self._keep)
        for other in self._decoded.keys() - set(wanted):
            self._decoded.pop(other).cancel()
        for new in wanted:
            if new not in self._decoded:
                epoch, i = divmod(new, len(self._groups))
                group = int(self._epoch(epoch)[0][i])
                order = [self.seed, epoch, group]
                # Not a method: a thread that held the table would keep it alive.
                self._decoded[new] = self._readers.submit(_decode, self._filesystem, *self._groups[group], order)


def _group_sizes(filesystem: pyarrow.fs.FileSystem, files: list[str], info: TokenizerInfo) -> list[list[int]]:
    """The rows of each row group of each file."""

    def sizes(file: str) -> list[int]:
        metadata = footer(filesystem, file, info)
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    with ThreadPoolExecutor(FOOTERS) as pool:
        return list(pool.map(sizes, files))


def _decode(filesystem: pyarrow.fs.FileSystem, file: str, i: int, order: Sequence[int]) -> Group:
    """Row group `i` of a file, with an order drawn from the seeds `order`. Raises InputError that names the file."""
    for wait in (*PAUSES, None):  # storage comes back, and to begin again at a checkpoint costs more
        try:
            table = _read(filesystem, file, i)
            break
        except (pa.ArrowException, OSError) as error:
            if wait is None:
                raise InputError(
                    f"{file}: cannot be read ({storage.first_line(error)}); put the file back, or ingest again"
                ) from None
            time.sleep(wait)
    uid, captions, tokens = (table[name].chunk(0) for name in ("uid", "caption", "tokens"))
    rows = np.random.default_rng(order).permutation(len(table))
    return Group(uid.to_numpy(), captions, tokens.flatten().to_numpy().reshape(len(table), -1), rows)


def _read(filesystem: pyarrow.fs.FileSystem, file: str, i: int) -> pa.Table:
    with filesystem.open_input_file(file) as stream:
        # This is a thread already, and pyarrow's own are for those who wait.
        columns = ["uid", "caption", "tokens"]
        return pq.ParquetFile(stream, pre_buffer=True).read_row_group(i, columns, use_threads=False).combine_chunks()


def _key(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
