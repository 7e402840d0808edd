"""A cache of a frozen text encoder's states, by caption.

Letters: B captions, M of them not in the cache, S positions, D width.
"""

from collections.abc import Callable

import torch
from cachetools import LRUCache
from torch import Tensor, nn

# 4,500 captions of 77 x 768 float32 numbers: all prompts of an evaluation, on a 32 GB GPU.
CACHE_BYTES = 1 << 30
# Captions per forward pass of the encoder in training, always as many: matrix products of another size round
# differently, and a run that resumes with an empty cache would not have the same bits.
TRAINING_BATCH = 8


class StateCache(nn.Module):
    """A cache from rows of ids to their states; the least recently used row is dropped first.

    New weights empty it. It is a module, so that `load_state_dict` and `to` reach it, and it compares PyTorch's version
    counters of the weights, which every write in place increments (an update of EMA weights is one). Copies and pickles
    of it are empty, and it adds nothing to a state dict.

    Args:
        max_bytes: Size of the cached states.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES):
        super().__init__()
        self._max_bytes, self._version = max_bytes, 0
        self._rows: LRUCache[tuple, Tensor] = LRUCache(max_bytes, getsizeof=lambda row: row.nbytes)

    def forward(self, ids: Tensor, tower: nn.Module, read: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the states (B,S,D) of ids (B,S).

        Args:
            ids: Rows of ids.
            tower: The encoder's network, whose weights `read` uses.
            read: Returns the states (M,S,D) of M rows of ids. It is called for rows that are not in the cache, each
                once; in training for TRAINING_BATCH at a time, the last of them filled up with a repeated row.
        """
        version = sum(0 if p.is_inference() else p._version for p in tower.parameters())
        if version != self._version:
            self._rows.clear()
            self._version = version
        keys = [(self.training, _precision(ids.device), row.tobytes()) for row in ids.cpu().numpy()]
        rows = {key: self._rows.get(key) for key in keys}
        missing = {key: i for i, key in enumerate(keys) if rows[key] is None}
        batch_size = TRAINING_BATCH if self.training else max(1, len(missing))
        for start in range(0, len(missing), batch_size):
            part = list(missing)[start : start + batch_size]
            index = [missing[key] for key in part]
            states = read(ids[index + index[:1] * (batch_size - len(part))])  # (M,S,D), or (TRAINING_BATCH,S,D)
            for key, row in zip(part, states, strict=False):
                rows[key] = self._rows[key] = row.clone()  # a view would keep the whole batch in memory
        return torch.stack([rows[key] for key in keys])  # type: ignore[misc]

    def _apply(self, fn: Callable, recurse: bool = True) -> "StateCache":
        self._rows.clear()
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args) -> None:
        self._rows.clear()
        super()._load_from_state_dict(*args)

    def __reduce__(self):
        return StateCache, (self._max_bytes,)


def _precision(device: torch.device) -> torch.dtype | None:
    """Return the dtype of autocast, None without it: the same weights give other states under autocast."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
