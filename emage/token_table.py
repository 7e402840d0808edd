"""Reads the token table in training order: the rows of a step are a function of (seed, step) alone.

Epoch e visits the row groups in an order drawn from (seed, e), and the rows within each in one drawn from
(seed, e, group). The table was shuffled globally at ingest, so rows near each other are strangers already.
"""

from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from emage.errors import InputError
from emage.schema import open_token_table


class Batch(NamedTuple):
    """Rows of one global step, or a rank's share of them."""

    uid: list[int]
    captions: list[str]
    y: Tensor  # (B,N) int64
    seeds: list[int]  # one a row, from (seed, step, place): masks and sampled tokens are drawn from them


class TokenTable:
    """Random access to the rows of a token table, a few decoded row groups in memory at a time."""

    def __init__(self, path: str, seed: int, groups_in_memory: int = 4):
        files, self.tokenizer = open_token_table(path)
        self.seed, self._keep = seed, groups_in_memory
        self._groups: list[tuple[str, int]] = []
        sizes: list[int] = []
        for file in files:
            metadata = pq.read_metadata(file)
            self._groups += [(file, i) for i in range(metadata.num_row_groups)]
            sizes += [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self._sizes = np.array(sizes, dtype=np.int64)
        self.num_rows = int(self._sizes.sum())
        if not self.num_rows:
            raise InputError(f"{path}: the token table has no rows")
        self._order: tuple[int, np.ndarray, np.ndarray] | None = None  # epoch, groups in order, rows up to each
        self._rows: OrderedDict[tuple[int, int], tuple[list, list, np.ndarray]] = OrderedDict()

    def batch(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> Batch:
        """This rank's rows of global step `step`: an equal, contiguous share of the step's `batch_size` rows."""
        share = batch_size // world_size
        places = range(step * batch_size + rank * share, step * batch_size + (rank + 1) * share)
        uid, captions, tokens = zip(*(self._row(place) for place in places), strict=True)
        seeds = [_key(self.seed, place) for place in places]
        return Batch(list(uid), list(captions), torch.from_numpy(np.stack(tokens).astype(np.int64)), seeds)

    def _row(self, place: int) -> tuple[int, str, np.ndarray]:
        """Row number `place` of the endless training order."""
        epoch, offset = divmod(place, self.num_rows)
        groups, ends = self._epoch(epoch)
        i = int(np.searchsorted(ends, offset, side="right"))
        uid, captions, tokens = self._group(epoch, int(groups[i]))
        j = offset - (int(ends[i - 1]) if i else 0)
        return uid[j], captions[j], tokens[j]

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        if self._order is None or self._order[0] != epoch:
            groups = np.random.default_rng([self.seed, epoch]).permutation(len(self._groups))
            self._order = (epoch, groups, self._sizes[groups].cumsum())
        return self._order[1:]

    def _group(self, epoch: int, group: int) -> tuple[list, list, np.ndarray]:
        """uid, captions and tokens (rows, N) of a row group, in this epoch's order."""
        if (epoch, group) not in self._rows:
            file, i = self._groups[group]
            table = pq.ParquetFile(file).read_row_group(i, columns=["uid", "caption", "tokens"])
            order = np.random.default_rng([self.seed, epoch, group]).permutation(table.num_rows)
            table = table.take(order)
            tokens = table["tokens"].combine_chunks().flatten().to_numpy().reshape(table.num_rows, -1)
            self._rows[epoch, group] = (table["uid"].to_pylist(), table["caption"].to_pylist(), tokens)
            while len(self._rows) > self._keep:
                self._rows.popitem(last=False)
        self._rows.move_to_end((epoch, group))
        return self._rows[epoch, group]


def _key(*numbers: int) -> int:
    """One 63-bit seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
