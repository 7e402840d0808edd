"""Dynamic batching: a queue in front of one model, which generates images of several requests as one batch.

    batcher = Batcher(max_batch_size=8, wait_s=0.0)
    finished = await batcher.generate(QueuedImage(pipe, "a red bus", seed=7, settings=pipe.settings()))

1. An image joins the queue.
2. When the model is free, the oldest image and the next ones of the same model and settings become a batch, up to
   `max_batch_size`. It is not formed earlier, so that images which arrive while another batch runs can still join it.
3. The batch runs in a thread. Each image has its own seed, so its pixels do not depend on the rest of the batch (bit
   for bit on a CPU; on a GPU up to rounding, not measured). Between two decoding steps the thread checks whether any
   client still waits, and sends the previews that are due.
4. A batch that does not fit into memory is split into halves. After any other failure the model must generate a small
   image: if that fails too (a CUDA error leaves the process unusable), the model is broken for good.

This module depends neither on HTTP nor on Ray.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from emage.serving.batch_types import (
    AllCancelled,
    BatchPipeline,
    BatchRecord,
    BrokenModelError,
    FinishedImage,
    GenerationError,
    GenerationStep,
    IntermediateImage,
    QueuedImage,
    QueueEntry,
)
from emage.utils.oom import is_out_of_memory, release

_log = logging.getLogger(__name__)

RECENT_BATCHES = 16  # whose mean is the estimate of the backlog


class Batcher:
    """A queue that lives in one event loop and generates in a thread of its own, one batch at a time.

    Args:
        max_batch_size: Images in a batch at most.
        wait_s: Seconds to wait for more images before each batch for which fewer than `max_batch_size` are queued.
        observe: Called with the measurements of each batch that has ended.
    """

    def __init__(
        self,
        max_batch_size: int,
        wait_s: float,
        observe: Callable[[BatchRecord], None] = lambda record: None,
    ):
        self.broken = False
        self._max_batch_size, self._wait_s, self._observe = max_batch_size, wait_s, observe
        self._queue: list[QueueEntry] = []
        self._worker: asyncio.Task[None] | None = None
        self._oom_limit: tuple[BatchPipeline, int] | None = None  # the model that ran out of memory, and its new limit
        self._last_progress: float | None = None  # when the last decoding step ended; None: no batch runs
        # One thread, always the same: each thread that generates would start worker threads of its own (OpenMP's), and
        # with more of those than cores all become slow.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="generation")
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT_BATCHES)  # seconds and images of each

    @property
    def waiting(self) -> int:
        """Number of images in the queue, without those of the running batch."""
        return len(self._queue)

    @property
    def backlog_s(self) -> float:
        """Estimate of the seconds that the queue takes, by the mean of the last batches; 0 before the first has ended.

        One batch alone may have waited for another program, or have had a single image.
        """
        if not self._recent:
            return 0.0
        seconds = sum(seconds for seconds, _ in self._recent)
        return self.waiting * seconds / sum(num_images for _, num_images in self._recent)

    @property
    def stuck_s(self) -> float:
        """Seconds since the running batch last finished a decoding step; 0 if no batch runs."""
        return 0.0 if self._last_progress is None else time.monotonic() - self._last_progress

    async def generate(self, image: QueuedImage) -> FinishedImage:
        """Generate an image in a batch with others.

        If the call is cancelled, the image leaves the queue; a running batch stops only if all its clients cancelled.

        Raises:
            BrokenModelError: The model will never generate again.
            GenerationError: The model failed on this batch.
        """
        if self.broken:
            raise BrokenModelError(during=False)
        result: asyncio.Future[FinishedImage] = asyncio.get_running_loop().create_future()
        self._queue.append(QueueEntry(image, result, time.monotonic()))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._run_until_empty())
        return await result

    async def run_in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Run other work of the model in the thread that generates, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def _run_until_empty(self) -> None:
        while self._queue:
            if len(self._queue) < self._max_batch_size:
                await asyncio.sleep(self._wait_s)
            if batch := self._next_batch():
                await self._run(batch)

    def _next_batch(self) -> list[QueueEntry]:
        """Remove a batch from the queue, led by the oldest image that a client still waits for."""
        self._queue = [entry for entry in self._queue if not entry.result.done()]
        if not self._queue:
            return []
        first = self._queue[0].image
        if self._oom_limit and self._oom_limit[0] is not first.pipe:
            self._oom_limit = None  # so that a replaced model's memory can be freed
        limit = self._oom_limit[1] if self._oom_limit else self._max_batch_size
        batch = [entry for entry in self._queue if entry.image.fits_with(first)][:limit]
        taken = {id(entry) for entry in batch}
        self._queue = [entry for entry in self._queue if id(entry) not in taken]
        return batch

    async def _run(self, batch: list[QueueEntry]) -> None:
        """Generate a batch and give its images, or the error, to the clients that wait."""
        started = self._last_progress = time.monotonic()
        running, finished = _RunningBatch(batch, self._note_progress), list[FinishedImage]()
        try:
            finished = await self.run_in_thread(running.run)
        except AllCancelled:
            pass
        except Exception as error:  # whatever a model raises is the answer to this batch, not the end of the queue
            if isinstance(error, RuntimeError) and is_out_of_memory(error) and len(batch) > 1:
                return self._split(batch)
            _log.exception("a batch of %d images failed", len(batch))
            await self._fail(batch)
        finally:
            self._last_progress = None
        if finished:
            self._recent.append((time.monotonic() - started, len(batch)))
            for entry, image in zip(batch, finished, strict=True):
                if not entry.result.done():
                    entry.result.set_result(image)
        waits_s = [started - entry.queued_at for entry in batch]
        try:
            self._observe(BatchRecord(len(batch), waits_s, running.steps_s, finished=bool(finished)))
        except Exception:  # a metrics failure must not fail the requests
            _log.exception("the metrics of a batch could not be recorded")

    def _note_progress(self) -> None:
        """Note that a decoding step has ended, in the batcher's thread."""
        self._last_progress = time.monotonic()

    def _split(self, batch: list[QueueEntry]) -> None:
        """Return a batch that ran out of memory to the queue, and limit the model's batches to half its size."""
        half = (len(batch) + 1) // 2
        _log.warning("%d images do not fit into memory; batches have at most %d from now on", len(batch), half)
        self._oom_limit = (batch[0].image.pipe, half)
        self._queue = batch + self._queue
        release()

    async def _fail(self, batch: list[QueueEntry]) -> None:
        """Fail the requests of a batch and, if the model is broken, those of the whole queue."""
        try:
            await self.run_in_thread(warm_up, batch[0].image.pipe)
        except Exception:
            _log.exception("the model cannot generate any more")
            self.broken = True
        for entry in batch:
            if not entry.result.done():
                entry.result.set_exception(BrokenModelError(during=True) if self.broken else GenerationError())
        if self.broken:
            for entry in self._queue:
                if not entry.result.done():
                    entry.result.set_exception(BrokenModelError(during=False))
            self._queue = []


class _RunningBatch:
    """A batch in the thread that generates it."""

    def __init__(self, batch: list[QueueEntry], on_progress: Callable[[], None]):
        self.steps_s: list[float] = []
        self._on_progress = on_progress
        self._images = [entry.image for entry in batch]
        self._results = [entry.result for entry in batch]

    def run(self) -> list[FinishedImage]:
        """Return the batch's images. Raises AllCancelled if no client waits for any of them any more."""
        images, last = self._images, None
        steps = images[0].pipe.generation_steps(
            [image.prompt for image in images],
            [image.seed for image in images],
            images[0].settings,
            [image.inpainting_input for image in images],
            [image.negative_prompt for image in images],
        )
        before = time.monotonic()
        for last in steps:
            last.wait()  # the host is ahead of a GPU: it would issue all steps before a client could cancel
            if all(result.done() for result in self._results):
                raise AllCancelled
            self._send_previews(last)
            now = time.monotonic()
            self.steps_s.append(now - before)
            before = now
            self._on_progress()
        assert last is not None, "a method without decoding steps"
        scores = last.likelihood() if images[0].scored else [0.0] * len(images)
        self._on_progress()  # the likelihood takes several forward passes, and the images are still to be decoded
        return [FinishedImage(image, score, last.num_steps) for image, score in zip(last.images(), scores, strict=True)]

    def _send_previews(self, generated: GenerationStep) -> None:
        """Hand a preview to every image for which one is due and a client waits."""
        step, steps = generated.step, generated.num_steps
        rows = [i for i, image in enumerate(self._images) if image.is_preview_due(step, steps)]
        rows = [i for i in rows if not self._results[i].done()]
        if not rows:
            return
        unmasked = generated.fraction_unmasked()
        for i, image in zip(rows, generated.images(rows), strict=True):
            on_preview: Any = self._images[i].on_preview
            on_preview(IntermediateImage(step, steps, unmasked[i], image))


def warm_up(pipe: BatchPipeline) -> None:
    """Run two decoding steps and discard the images: the first image of a model takes longest."""
    for step in itertools.islice(pipe.generation_steps(["a warm-up"], [0], pipe.settings(), [None], [""]), 2):
        step.images()
