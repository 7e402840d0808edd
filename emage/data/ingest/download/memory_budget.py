"""A limit on the bytes of downloaded bodies that are in memory at the same time.

A body up to SMALL_BYTES is not counted: most images are smaller. A larger one takes all that it may still need from
the budget in one piece, and waits if that is not there. Since a download never waits while it holds a piece, some
download can always go on.
"""

import ctypes
import threading
from collections import deque
from contextlib import suppress

from emage.data.ingest.download.safe_connection import seconds_left

SMALL_BYTES = 1 << 20
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def return_freed_bodies() -> None:
    """Have the C library give the memory of freed large bodies back to the system at once, if it is glibc.

    By default it learns to keep blocks of up to 32 MB, and the holes between them add up from shard to shard.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, SMALL_BYTES)


class MemoryBudget:
    """A number of bytes that threads share. Who waits is served in order, so that large pieces have their turn."""

    def __init__(self, num_bytes: int):
        self.num_bytes = num_bytes
        self.free = num_bytes
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()

    def take(self, num_bytes: int, deadline: float) -> None:
        """Take bytes, when they are there. Raise TimeoutError at the deadline (of time.monotonic())."""
        assert num_bytes <= self.num_bytes
        turn = object()
        with self._changed:
            self._waiting.append(turn)
            try:
                while self._waiting[0] is not turn or self.free < num_bytes:
                    self._changed.wait(seconds_left(deadline))
                self.free -= num_bytes
            finally:
                self._waiting.remove(turn)
                self._changed.notify_all()

    def give_back(self, num_bytes: int) -> None:
        """Give bytes back."""
        with self._changed:
            self.free += num_bytes
            self._changed.notify_all()


class Share:
    """What one download has taken from a budget."""

    def __init__(self, budget: MemoryBudget):
        self.budget = budget
        self.num_bytes = 0

    def take(self, num_bytes: int, deadline: float) -> None:
        """Take bytes, once: a second call has no effect. Raise TimeoutError at the deadline."""
        if not self.num_bytes:
            self.budget.take(num_bytes, deadline)
            self.num_bytes = num_bytes

    def keep(self, num_bytes: int) -> None:
        """Give back all but `num_bytes`."""
        kept = min(self.num_bytes, num_bytes)
        self.budget.give_back(self.num_bytes - kept)
        self.num_bytes = kept
