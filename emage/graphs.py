"""CUDA graphs: what a generator launches between two yields, recorded once and played again with no Python in between.

1. The first time that a kind of work is asked for it runs as it is written; whatever has to be compiled, chosen or
   kept for later is then there.
2. The second time it is recorded, one graph for every yield, and from then on played.

Such work has fixed shapes, reads nothing but its inputs and what never changes, and never waits for the device.
Anywhere but on a GPU, and where a recording is busy, it always runs as it is written: with the same result.
"""

import gc
import threading
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor

Tensors = tuple[Tensor, ...]
Steps = Generator[Tensors, None, None]
Work = Callable[[Tensors], Steps]

KINDS = 64  # recorded kinds of work that are kept, those used last


class Graphs:
    """The recordings of one model. Their memory is one pool: only one of them works at a time."""

    def __init__(self, device: torch.device):
        self._device = device
        self._seen: LRUCache[Hashable, bool] = LRUCache(16 * KINDS)
        self._recordings: LRUCache[Hashable, Recording] = LRUCache(KINDS)
        self._pool: Any = None
        self._lock = threading.Lock()

    def run(
        self, kind: Hashable, work: Work, inputs: Sequence[Tensor], num_yields: int = 1, alike: bool = False
    ) -> Steps:
        """What `work(inputs)` yields, `num_yields` times; the tensors are the caller's own.

        `kind` tells work apart that differs in more than its inputs' values. `alike`: all yields but the first are the
        same work on the same memory, so that one graph serves them all.
        """
        # Copies lie in memory as those of a recording do; what is compiled for the one serves the other.
        inputs = own(inputs) if self._device.type == "cuda" else tuple(inputs)
        recording = self._recording(kind, work, inputs, num_yields, alike)
        if recording is None:
            yield from work(inputs)
            return
        try:
            yield from recording.play(inputs)
        finally:
            recording.free.release()

    def _recording(
        self, kind: Hashable, work: Work, inputs: Tensors, num_yields: int, alike: bool
    ) -> "Recording | None":
        """The recording of this kind, which must be released; None where there is none that could be played."""
        if self._device.type != "cuda" or torch.cuda.current_stream() != torch.cuda.default_stream():
            return None
        with self._lock:
            if kind not in self._seen:
                self._seen[kind] = True
                return None
            if kind not in self._recordings:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                self._recordings[kind] = Recording(work, inputs, 2 if alike else num_yields, num_yields, self._pool)
            recording = self._recordings[kind]
        return recording if recording.free.acquire(blocking=False) else None


class Recording:
    """The graphs of one kind of work."""

    def __init__(self, work: Work, inputs: Tensors, num_graphs: int, num_yields: int, pool: Any):
        self.free = threading.Lock()
        self._num_yields = num_yields
        self._inputs = own(inputs)
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._outputs: list[Tensors] = []
        for _ in work(self._inputs):  # nothing may be compiled or chosen while recording
            pass
        # Never played to its end: what it holds on to from one yield to the next is memory that the graphs use.
        self._work = work(self._inputs)
        stream = torch.cuda.Stream()
        torch.cuda.synchronize()
        gc.collect()  # what is thrown away while recording may wait for the device, which is forbidden then
        with torch.cuda.stream(stream):
            for _ in range(min(num_graphs, num_yields)):
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin(pool, capture_error_mode="thread_local")
                try:
                    self._outputs.append(next(self._work))
                finally:
                    graph.capture_end()
                self._graphs.append(graph)
        torch.cuda.current_stream().wait_stream(stream)

    def play(self, inputs: Sequence[Tensor]) -> Steps:
        torch._foreach_copy_(self._inputs, list(inputs))
        for i in range(self._num_yields):
            which = min(i, len(self._graphs) - 1)
            self._graphs[which].replay()
            yield own(self._outputs[which])


def own(tensors: Sequence[Tensor]) -> Tensors:
    """Copies that nobody overwrites."""
    copies = [torch.empty_like(tensor) for tensor in tensors]
    torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)
