"""A cache of a frozen text encoder's states, by caption.

Letters: B captions, M of them not in the cache, S positions, D width.
"""

from collections.abc import Callable

import torch
from cachetools import LRUCache
from torch import Tensor, nn

# 4,500 captions of 77 x 768 float32 numbers: all prompts of a run and their candidates, on a 32 GB GPU.
CACHE_BYTES = 1 << 30
# In training always so many, the last part filled up: products of matrices of another size round differently, and a run
# that goes on with an empty cache would not have the same bits.
READ_AT_ONCE = 8


class StateCache(nn.Module):
    """Rows of ids -> their states, the least recently used dropped first.

    New weights empty it: it is a module so that it hears of `load_state_dict` and `to`, and it watches the versions of
    the weights, which count what is written into them in place (an average of weights does that). Copies and pickles
    of it are empty, and it adds nothing to a state dict.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES):
        super().__init__()
        self._max_bytes, self._version = max_bytes, 0
        self._rows: LRUCache[tuple, Tensor] = LRUCache(max_bytes, getsizeof=lambda row: row.nbytes)

    def forward(self, ids: Tensor, tower: nn.Module, read: Callable[[Tensor], Tensor]) -> Tensor:
        """(B,S) ids -> (B,S,D) states; `read`, by `tower`, is asked for the M rows that are not here, each once.

        In training it is asked for READ_AT_ONCE at a time, some of them twice.
        """
        version = sum(0 if p.is_inference() else p._version for p in tower.parameters())
        if version != self._version:
            self._rows.clear()
            self._version = version
        keys = [(self.training, _precision(ids.device), row.tobytes()) for row in ids.cpu().numpy()]
        rows = {key: self._rows.get(key) for key in keys}
        missing = {key: i for i, key in enumerate(keys) if rows[key] is None}
        at_once = READ_AT_ONCE if self.training else max(1, len(missing))
        for start in range(0, len(missing), at_once):
            part = list(missing)[start : start + at_once]
            index = [missing[key] for key in part]
            states = read(ids[index + index[:1] * (at_once - len(part))])  # (M,S,D), or (READ_AT_ONCE,S,D)
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
    """Under autocast the same weights give other states."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
