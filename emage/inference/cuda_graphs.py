"""CUDA graphs: what a generator launches between two yields, recorded once and played again with no Python in between.

1. The first time that a kind of work is asked for it runs as it is written.
2. The second time it is recorded, one graph for every yield, and from then on played.

Such work has fixed shapes, reads nothing but its inputs and what it holds on to itself, and never waits for the device.
Anywhere but on a GPU, where another recording of its group is at work, and where memory is too small for a recording,
it runs as it is written: with the same result.
"""

import contextlib
import gc
import logging
import threading
from collections.abc import Callable, Generator, Hashable, Sequence
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor

Tensors = tuple[Tensor, ...]
Steps = Generator[Tensors, None, None]
Work = Callable[[Tensors], Steps]

KINDS = 32  # recorded kinds of work that are kept in each group, those used last
LONGEST = 64  # yields that are recorded, but for those that are alike

_log = logging.getLogger(__name__)
_recording = threading.Lock()  # in the whole process: what one thread does to the device may spoil another's recording


class GraphPool:
    """Recordings that share memory, and so are never at work at the same time."""

    def __init__(self) -> None:
        self.free = threading.Lock()
        self.seen: LRUCache[Hashable, bool] = LRUCache(16 * KINDS)
        self.recordings: LRUCache[Hashable, CapturedGraphs | None] = LRUCache(
            KINDS
        )  # None: it does not fit into memory
        self.pool: Any = None
        self.stream: torch.cuda.Stream | None = None  # memory is used again by the stream that it was first used by


class CudaGraphCache:
    """The recordings of one model.

    Work of one yield has a group of its own: it may come between two yields of other work, as a preview does.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._once, self._often = GraphPool(), GraphPool()

    def run(
        self, kind: Hashable, work: Work, inputs: Sequence[Tensor], num_yields: int = 1, alike: bool = False
    ) -> Steps:
        """What `work(inputs)` yields, `num_yields` times; the tensors are the caller's own.

        `kind` tells work apart that differs in more than its inputs' values. `alike`: all yields but the first are the
        same work on the same memory, so that one graph serves them all.
        """
        if self._device.type != "cuda":
            yield from work(tuple(inputs))
            return
        group = self._once if num_yields == 1 else self._often
        with contextlib.ExitStack() as held:
            recording = None
            if group.free.acquire(blocking=False):
                held.callback(group.free.release)
                if alike or num_yields <= LONGEST:
                    recording = self._find(group, kind, work, inputs, num_yields, alike)
            # Copies lie in memory as a recording's do: what is compiled for the one serves the other.
            yield from recording.play(inputs) if recording else work(own(inputs))

    def _find(
        self, group: GraphPool, kind: Hashable, work: Work, inputs: Sequence[Tensor], num_yields: int, alike: bool
    ) -> "CapturedGraphs | None":
        """The recording of this kind, made if it is the second time; None where there is none."""
        if torch.cuda.current_stream(self._device) != torch.cuda.default_stream(self._device):
            return None
        if kind not in group.seen:
            group.seen[kind] = True
            return None
        if kind not in group.recordings and _recording.acquire(blocking=False):
            try:
                group.recordings[kind] = self._record(group, work, inputs, num_yields, alike)
            finally:
                _recording.release()
        return group.recordings.get(kind)

    def _record(
        self, group: GraphPool, work: Work, inputs: Sequence[Tensor], num_yields: int, alike: bool
    ) -> "CapturedGraphs | None":
        with torch.cuda.device(self._device):
            group.pool = group.pool or torch.cuda.graph_pool_handle()
            group.stream = group.stream or torch.cuda.Stream()
            try:
                return CapturedGraphs(work, own(inputs), min(num_yields, 2 if alike else num_yields), num_yields, group)
            except torch.OutOfMemoryError:
                _log.warning("too little memory to record this kind of work: it runs as it is written, more slowly")
                group.recordings.clear()
                torch.cuda.empty_cache()
                return None


class CapturedGraphs:
    """The graphs of one kind of work."""

    def __init__(self, work: Work, inputs: Tensors, num_graphs: int, num_yields: int, group: GraphPool):
        self._inputs, self._num_yields = inputs, num_yields
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._outputs: list[Tensors] = []
        for _ in work(inputs):  # nothing may be compiled or chosen while recording
            pass
        # Never played to its end: what it holds on to from one yield to the next is memory that the graphs use.
        self._work = work(inputs)
        gc.collect()  # what is thrown away while recording may wait for the device, which is forbidden then
        torch.cuda.empty_cache()  # as is giving memory back
        torch.cuda.current_stream().synchronize()
        with torch.cuda.stream(group.stream):
            for _ in range(num_graphs):
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin(group.pool, capture_error_mode="thread_local")
                try:
                    self._outputs.append(next(self._work))
                except BaseException:
                    with contextlib.suppress(RuntimeError):  # the first error says what is wrong
                        graph.capture_end()
                    raise
                graph.capture_end()
                self._graphs.append(graph)
        self._device = inputs[0].device

    def play(self, inputs: Sequence[Tensor]) -> Steps:
        with torch.inference_mode(False), torch.no_grad():
            torch._foreach_copy_(self._inputs, list(inputs))
        for i in range(self._num_yields):
            which = min(i, len(self._graphs) - 1)
            with torch.cuda.device(self._device):
                self._graphs[which].replay()
            yield own(self._outputs[which])


def own(tensors: Sequence[Tensor]) -> Tensors:
    """Copies that nobody overwrites."""
    with torch.inference_mode(False), torch.no_grad():
        copies = [torch.empty_like(tensor) for tensor in tensors]
        torch._foreach_copy_(copies, list(tensors))
    return tuple(copies)
