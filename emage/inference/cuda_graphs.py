"""CUDA graphs: the kernels that a generator launches between two yields are captured once and replayed without Python.

1. The first time that work of a key is requested it runs eagerly.
2. The second time it is captured, one graph per yield, and replayed from then on.

Such work has fixed shapes, reads only its inputs and its own tensors, and never waits for the device. It runs eagerly,
with the same result,

- on a CPU, or in another stream than the default one;
- while other work of the same pool is running, or another thread of the process captures;
- if it has more than MAX_GRAPHS_PER_KEY yields that are not the same work;
- if memory did not suffice for a capture.
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
Outputs = Generator[Tensors, None, None]
Work = Callable[[Tensors], Outputs]

MAX_CAPTURED_KEYS = 32  # per pool; the least recently used is dropped
MAX_GRAPHS_PER_KEY = 64  # work of more yields is captured only if all of its yields are the same work

_log = logging.getLogger(__name__)
_capturing = threading.Lock()  # one capture per process: what another thread launches on the device may spoil it


class GraphPool:
    """Captured graphs that share memory, and are therefore never replayed at the same time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.seen: LRUCache[Hashable, bool] = LRUCache(16 * MAX_CAPTURED_KEYS)
        self.captured: LRUCache[Hashable, CapturedGraphs | None] = LRUCache(MAX_CAPTURED_KEYS)  # None: out of memory
        self.memory: Any = None
        self.stream: torch.cuda.Stream | None = None  # only the stream that first used memory can use it again


class CudaGraphCache:
    """The captured graphs of one model.

    Work of one yield has a pool of its own, because it may run between two yields of other work, as a preview does.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._single, self._stepwise = GraphPool(), GraphPool()

    def run(
        self,
        key: Hashable,
        work: Work,
        inputs: Sequence[Tensor],
        num_yields: int = 1,
        same_every_step: bool = False,
    ) -> Outputs:
        """Yield what `work(inputs)` yields. The tensors belong to the caller and are not overwritten later.

        Args:
            key: Differs for work that differs in more than the values of its inputs, for example in their shapes.
            work: A generator function.
            inputs: Its argument.
            num_yields: How often it yields.
            same_every_step: All yields but the first are the same work on the same memory; one graph serves them all.
        """
        if self._device.type != "cuda":
            yield from work(tuple(inputs))
            return
        pool = self._single if num_yields == 1 else self._stepwise
        with contextlib.ExitStack() as held:
            graphs = None
            if pool.lock.acquire(blocking=False):
                held.callback(pool.lock.release)
                if same_every_step or num_yields <= MAX_GRAPHS_PER_KEY:
                    graphs = self._find(pool, key, work, inputs, num_yields, same_every_step)
            # Copies have the memory layout of captured inputs, so that the same compiled code serves both.
            yield from graphs.replay(inputs) if graphs else work(copies(inputs))

    def _find(
        self,
        pool: GraphPool,
        key: Hashable,
        work: Work,
        inputs: Sequence[Tensor],
        num_yields: int,
        same_every_step: bool,
    ) -> "CapturedGraphs | None":
        """Return the graphs of this key, captured now if this is the second time; None if there are none."""
        if torch.cuda.current_stream(self._device) != torch.cuda.default_stream(self._device):
            return None
        if key not in pool.seen:
            pool.seen[key] = True
            return None
        if key not in pool.captured and _capturing.acquire(blocking=False):
            try:
                pool.captured[key] = self._capture(pool, work, inputs, num_yields, same_every_step)
            finally:
                _capturing.release()
        return pool.captured.get(key)

    def _capture(
        self, pool: GraphPool, work: Work, inputs: Sequence[Tensor], num_yields: int, same_every_step: bool
    ) -> "CapturedGraphs | None":
        num_graphs = min(num_yields, 2) if same_every_step else num_yields
        with torch.cuda.device(self._device):
            pool.memory = pool.memory or torch.cuda.graph_pool_handle()
            pool.stream = pool.stream or torch.cuda.Stream()
            try:
                return CapturedGraphs(work, copies(inputs), num_graphs, num_yields, pool)
            except torch.OutOfMemoryError:
                _log.warning("too little GPU memory to capture a CUDA graph: this batch size runs without, more slowly")
                pool.captured.clear()
                torch.cuda.empty_cache()
                return None


class CapturedGraphs:
    """The graphs of one key."""

    def __init__(self, work: Work, inputs: Tensors, num_graphs: int, num_yields: int, pool: GraphPool):
        self._inputs, self._num_yields = inputs, num_yields
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._outputs: list[Tensors] = []
        for _ in work(inputs):  # warm-up: nothing may be compiled or autotuned during a capture
            pass
        # Kept unfinished: the memory that it keeps from one yield to the next is used by the graphs.
        self._work = work(inputs)
        gc.collect()  # freeing objects may synchronise with the device, which is forbidden during a capture
        torch.cuda.empty_cache()  # as is giving memory back
        torch.cuda.current_stream().synchronize()
        with torch.cuda.stream(pool.stream):
            for _ in range(num_graphs):
                graph = torch.cuda.CUDAGraph()
                graph.capture_begin(pool.memory, capture_error_mode="thread_local")
                try:
                    self._outputs.append(next(self._work))
                except BaseException:
                    with contextlib.suppress(RuntimeError):  # the first error is the one to report
                        graph.capture_end()
                    raise
                graph.capture_end()
                self._graphs.append(graph)
        self._device = inputs[0].device

    def replay(self, inputs: Sequence[Tensor]) -> Outputs:
        """Yield what the work would yield for these inputs."""
        with torch.inference_mode(False), torch.no_grad():
            torch._foreach_copy_(self._inputs, list(inputs))
        for i in range(self._num_yields):
            index = min(i, len(self._graphs) - 1)
            with torch.cuda.device(self._device):
                self._graphs[index].replay()
            yield copies(self._outputs[index])


def copies(tensors: Sequence[Tensor]) -> Tensors:
    """Return copies, which a later replay does not overwrite."""
    with torch.inference_mode(False), torch.no_grad():
        copied = [torch.empty_like(tensor) for tensor in tensors]
        torch._foreach_copy_(copied, list(tensors))
    return tuple(copied)
