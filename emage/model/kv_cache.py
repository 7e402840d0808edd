"""The cache of keys and values for causal generation, one token at a time.

Letters: B images, N image tokens, D width, H heads, K width of a head, L layers.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class LayerCache(NamedTuple):
    """One layer's keys and values in the cache, and the position of the next token."""

    keys: Tensor  # (B,H,N,K)
    values: Tensor
    position: Tensor  # (1,) int64, of the next token
    seen: Tensor  # (1,N) bool, the positions that this token attends to: its own and earlier ones

    def put(self, keys: Tensor, values: Tensor) -> None:
        """Write the next token's keys and values, (B,H,1,K) each."""
        self.keys.index_copy_(2, self.position, keys)
        self.values.index_copy_(2, self.position, values)


class KVCache:
    """Keys and values of the earlier image tokens, for causal generation: 2 L B N D numbers in L layers.

    It has a fixed size and keeps the position of the next token on the device: every token is the same work, so that
    one CUDA graph serves all.
    """

    def __init__(self, shape: Sequence[int], like: Tensor):
        """Make an empty cache of the shape (L,B,H,N,K), with the device and precision of `like`."""
        self._keys, self._values = like.new_zeros(shape), like.new_zeros(shape)
        self._positions = torch.arange(shape[3], device=like.device)[None]
        self._position = torch.zeros(1, dtype=torch.int64, device=like.device)
        self._seen = self._positions <= self._position

    @property
    def layers(self) -> list[LayerCache]:
        """Return every layer's cache."""
        return [LayerCache(*pair, self._position, self._seen) for pair in zip(self._keys, self._values, strict=True)]

    def advance(self) -> None:
        """Move to the next token."""
        self._position += 1
        torch.le(self._positions, self._position, out=self._seen)
