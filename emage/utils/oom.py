"""Batches that do not fit into a device's memory: halved until they do. Knows nothing of images."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from emage.utils.errors import InputError

log = logging.getLogger(__name__)

# What PyTorch says beside torch.OutOfMemoryError: its CPU allocator, the CUDA driver, cuBLAS and cuDNN.
SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")


class HalvedOnOom:
    """Applies `work` (B, ...) -> (B, ...) to as many rows at a time as fit. Rows must not depend on each other.

    The size that worked is kept: a batch that failed costs time, and the next one would fail as well.
    """

    def __init__(self, work: Callable[[Tensor], Tensor], most: int):
        self.work, self.most = work, most

    def __call__(self, rows: Tensor) -> Tensor:
        """Raises InputError where one row alone does not fit."""
        parts: list[Tensor] = []
        start = 0
        while start < len(rows):
            part = rows[start : start + self.most]
            result = self._try(part)
            if result is None:
                self._halve(len(part))
            else:
                parts.append(result)
                start += len(part)
        return torch.cat(parts)

    def _try(self, part: Tensor) -> Tensor | None:
        """None where memory ran out. The exception ends here: its traceback holds what the failed pass allocated."""
        try:
            return self.work(part)
        except RuntimeError as error:  # OutOfMemoryError is one
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                text = str(error).splitlines()[0]
                raise InputError(
                    f"not even a batch of one fits into memory; free some and start again ({text})"
                ) from None
            return None

    def _halve(self, failed: int) -> None:
        self.most = (failed + 1) // 2
        release()
        log.warning("a batch of %d does not fit into memory; from here on batches of %d", failed, self.most)


def release() -> None:
    """Gives back what PyTorch keeps of a GPU's memory for later, in pieces that fitted what failed."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in SIGNS)
