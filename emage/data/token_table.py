"""The rows of a token table in training order: the rows of a step depend on (seed, step) alone.

Epoch e visits the row groups in a random order that depends on (seed, e), and the rows of each group in a random order
that depends on (seed, e, group). The ingest shuffled the whole table, so the rows of a group are unrelated already.

Training order is endless, epoch after epoch. A row's number in it is called its index, a row group's number in it a
slot. While the rows of one slot are used, threads read and decode the row groups of the next slots.

    B  rows of a global batch        N  image tokens
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

from emage.data.schema import TRAINED_COLUMNS, TokenizerInfo, check_values, open_token_table, read_footer
from emage.utils import storage
from emage.utils.errors import InputError, first_line

RETRY_PAUSES_S = (0.5, 2.0)  # before a row group that could not be read is tried again
NUM_READERS = 2  # threads that decode row groups
NUM_FOOTER_READERS = 16  # threads that read footers at the start: in object storage each footer is a request


class Batch(NamedTuple):
    """The rows of one global step, or one rank's part of them."""

    uid: list[int]  # the rows' ids
    captions: list[str]
    y: Tensor  # (B,N) int64, the image tokens
    seeds: list[int]  # one per row, from (seed, index): masks and sampled tokens depend on them


class RowGroup(NamedTuple):
    """A decoded row group: its rows as they are stored, and the order in which an epoch uses them."""

    uid: np.ndarray  # (rows,) int64
    captions: pa.Array  # Arrow's text: Python's strings are made one batch at a time
    tokens: np.ndarray  # (rows,N) uint16
    order: np.ndarray  # (rows,) int64


class TokenTable:
    """Random access to the training order of a token table, on this machine or in object storage."""

    def __init__(self, path: str, seed: int, groups_in_memory: int = 3):
        """Read the footers of all files.

        Args:
            path: The table's folder, or its URI.
            seed: Decides the training order and the rows' own seeds; 0 or more.
            groups_in_memory: Maximum number of decoded row groups: the one in use and those read ahead.

        Raises:
            InputError: The folder has no rows or no token table, or a file is damaged or belongs to another table.
        """
        self.seed, self._groups_in_memory = seed, groups_in_memory
        self._filesystem, _ = storage.find(path)
        files, self.tokenizer = open_token_table(path)
        sizes = _group_sizes(self._filesystem, files, self.tokenizer)
        self._groups = [(file, i) for file, rows in zip(files, sizes, strict=True) for i in range(len(rows))]
        self._sizes = np.array([rows for of_file in sizes for rows in of_file], dtype=np.int64)
        self.num_rows = int(self._sizes.sum())
        if not self.num_rows:
            raise InputError(f"{path}: the token table has no rows")
        self._epochs: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # groups in order, rows up to the end of each
        self._decoded: dict[int, Future[RowGroup]] = {}  # by slot
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="token-table")
        self._lock = Lock()

    def batch(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Batch:
        """Return a rank's rows of a global step, and start to read the rows of the next step.

        Args:
            step: The number of the step, from 0.
            batch_size: B, over all ranks.
            rank: This rank gets the rows [B*rank//world_size, B*(rank+1)//world_size) of the step.
            world_size: The number of ranks.

        Raises:
            InputError: A file has disappeared, or was damaged after the table was opened.
        """
        start, stop = (step * batch_size + batch_size * r // world_size for r in (rank, rank + 1))
        y = np.empty((stop - start, self.tokenizer.num_tokens), np.int64)
        uid: list[int] = []
        captions: list[str] = []
        with self._lock:
            while (index := start + len(uid)) < stop:
                slot, first = self._find(index)
                group = self._group(slot)
                rows = group.order[first : first + stop - index]
                y[len(uid) : len(uid) + len(rows)] = group.tokens[rows]
                uid += group.uid[rows].tolist()
                captions += group.captions.take(pa.array(rows)).to_pylist()
            self._read_ahead(self._find(start + batch_size)[0])
        return Batch(uid, captions, torch.from_numpy(y), [row_seed(self.seed, index) for index in range(start, stop)])

    def close(self) -> None:
        """Stop reading ahead. A table that is garbage collected stops by itself."""
        self._readers.shutdown(wait=False, cancel_futures=True)

    def _find(self, index: int) -> tuple[int, int]:
        """Return the slot of a row in training order, and the row's number in the slot's order."""
        epoch, row = divmod(index, self.num_rows)
        _, ends = self._epoch(epoch)
        i = int(np.searchsorted(ends, row, side="right"))
        return epoch * len(self._groups) + i, row - (int(ends[i - 1]) if i else 0)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if epoch not in self._epochs:
            groups = np.random.default_rng([self.seed, epoch]).permutation(len(self._groups))
            while len(self._epochs) > 1:  # two at the end of an epoch, when the next one's groups are read
                del self._epochs[next(iter(self._epochs))]
            self._epochs[epoch] = groups, self._sizes[groups].cumsum()
        return self._epochs[epoch]

    def _group(self, slot: int) -> RowGroup:
        self._read_ahead(slot)
        try:
            return self._decoded[slot].result()
        except InputError:
            del self._decoded[slot]  # the next call reads it again: storage may be reachable by then
            raise

    def _read_ahead(self, slot: int) -> None:
        """Start reading the groups of `slot` and of those after it, and drop all others."""
        wanted = range(slot, slot + self._groups_in_memory)
        for other in self._decoded.keys() - set(wanted):
            self._decoded.pop(other).cancel()
        for new in wanted:
            if new not in self._decoded:
                epoch, i = divmod(new, len(self._groups))
                group = int(self._epoch(epoch)[0][i])
                seeds = [self.seed, epoch, group]
                # Not a method: a thread that held the table would keep it alive.
                self._decoded[new] = self._readers.submit(
                    _decode, self._filesystem, self.tokenizer, *self._groups[group], seeds
                )


def row_seed(seed: int, index: int) -> int:
    """Return a 63-bit seed for the row at an index of the training order."""
    return int(np.random.SeedSequence((seed, index)).generate_state(1, np.uint64)[0] >> 1)


def _group_sizes(filesystem: pyarrow.fs.FileSystem, files: list[str], info: TokenizerInfo) -> list[list[int]]:
    """Return the number of rows of each row group of each file."""

    def sizes(file: str) -> list[int]:
        metadata = read_footer(filesystem, file, info)
        return [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]

    with ThreadPoolExecutor(NUM_FOOTER_READERS) as pool:
        return list(pool.map(sizes, files))


def _decode(
    filesystem: pyarrow.fs.FileSystem, info: TokenizerInfo, file: str, i: int, seeds: Sequence[int]
) -> RowGroup:
    """Return row group `i` of a file, in an order that depends on `seeds`. Raise an InputError that names the file."""
    for pause in (*RETRY_PAUSES_S, None):  # a short failure of storage must not stop a run
        try:
            table = _read(filesystem, file, i)
            break
        except (pa.ArrowException, OSError) as error:
            if pause is None:
                raise InputError(
                    f"{file}: cannot be read ({first_line(error)}); put the file back, or ingest again"
                ) from None
            time.sleep(pause)
    check_values(file, table, info)  # the footer need not have told them
    uid, captions, tokens = (table[name].combine_chunks() for name in TRAINED_COLUMNS)
    rows = np.random.default_rng(seeds).permutation(len(table))
    return RowGroup(uid.to_numpy(), captions, tokens.flatten().to_numpy().reshape(-1, info.num_tokens), rows)


def _read(filesystem: pyarrow.fs.FileSystem, file: str, i: int) -> pa.Table:
    with filesystem.open_input_file(file) as stream:
        parquet = pq.ParquetFile(stream, pre_buffer=True, page_checksum_verification=True)
        # This is a thread already: pyarrow's own threads would only compete with it.
        table = parquet.read_row_group(i, list(TRAINED_COLUMNS), use_threads=False)
        table["caption"].validate(full=True)  # UTF-8
        return table
