"""Out of memory: batches that do not fit into a device's memory are halved until they do."""

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from emage.utils.errors import InputError, first_line

log = logging.getLogger(__name__)

# Parts of the messages of other errors than torch.OutOfMemoryError: CPU allocator, CUDA driver, cuBLAS, cuDNN.
OOM_MESSAGES = ("can't allocate memory", "not enough memory", "out of memory", "STATUS_ALLOC_FAILED")


class HalvedOnOom:
    """Applies `work` (B, ...) -> (B, ...) to as many rows at a time as fit into memory. Rows are independent.

    A batch size that failed is not tried again: it would fail again, and each attempt costs time.
    """

    def __init__(self, work: Callable[[Tensor], Tensor], most: int):
        self.work, self.most = work, most

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the results of all rows. Raise InputError if one row alone does not fit."""
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
        """Return None if memory ran out. The exception must end here: its traceback holds the allocated memory."""
        try:
            return self.work(part)
        except RuntimeError as error:  # OutOfMemoryError is one
            if not is_out_of_memory(error):
                raise
            if len(part) == 1:
                raise InputError(
                    f"not even a batch of one fits into memory; free some and start again ({first_line(error)})"
                ) from None
            return None

    def _halve(self, failed: int) -> None:
        self.most = (failed + 1) // 2
        release()
        log.warning("a batch of %d does not fit into memory; from here on batches of %d", failed, self.most)


def release() -> None:
    """Return PyTorch's cached GPU memory to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether an error means that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in OOM_MESSAGES)
