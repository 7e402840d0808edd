"""Images asked for one at a time, drawn together: a queue that shares one model among many waiters.

    batcher = Batcher(max_batch_size=8, wait_s=0.0)
    drawn = await batcher.draw(Job(pipe, "a red bus", seed=7, settings=pipe.settings()))

1. A job joins the queue.
2. When the model is free, the oldest job takes along the next ones of its model and settings, up to a full batch. A
   batch is put together no earlier: jobs that come while another is drawn would otherwise wait in half-empty ones.
3. The batch is drawn in a thread, each image with its own seed, so that company changes no pixel. Between two passes
   it looks whether anyone still waits, and hands previews to who asked for them.
4. What does not fit into memory is drawn in halves. After any other failure the model is asked for a small image: if
   it can't draw that either (a CUDA error leaves nothing that works), it is broken for good.

It knows neither HTTP nor Ray.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from emage.config import SamplingConfig
from emage.utils.oom import is_out_of_memory, release

_log = logging.getLogger(__name__)


class Pass(Protocol):
    """The part of emage.inference.pipeline.Pass that a queue needs."""

    @property
    def step(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    def wait(self) -> None: ...
    def known(self) -> list[float]: ...
    def images(self, rows: Sequence[int] | None = None) -> list[Image.Image]: ...
    def likelihood(self) -> list[float]: ...


class Pipe(Protocol):
    """The part of emage.Emage that a queue needs."""

    def settings(self, **sampling: Any) -> SamplingConfig: ...
    def passes(
        self, prompts: Sequence[str], seeds: Sequence[int], settings: SamplingConfig, canvases: Sequence[Any]
    ) -> Iterator[Pass]: ...


@dataclass(frozen=True)
class Frame:
    """An image on its way: what it would be if it ended after pass `step` of `steps`."""

    step: int
    steps: int
    known: float  # share of its tokens
    image: Image.Image


@dataclass(frozen=True)
class Drawn:
    """A finished image."""

    image: Image.Image
    score: float  # nats a token, where the job is `scored`
    steps: int  # passes it took


@dataclass(frozen=True, eq=False)
class Job:
    """One image to draw."""

    pipe: Pipe  # it was made for this model, and is drawn by it even where another has taken over meanwhile
    prompt: str
    seed: int
    settings: SamplingConfig
    canvas: Any = None  # an image of which a part is regenerated (Emage.canvas)
    scored: bool = False  # whether the model says how likely it finds the image
    frames: int = 0  # previews wanted, spread evenly over the passes before the last
    on_frame: Callable[[Frame], None] | None = None  # called in the drawing thread; must not raise

    def shares(self, other: "Job") -> bool:
        """Whether both can be drawn together."""
        same = (self.settings, self.scored) == (other.settings, other.scored)
        return same and self.pipe is other.pipe

    def wants(self, step: int, steps: int) -> bool:
        """Whether a preview is due after this pass. Of 3 in 16 passes: after 4, 8 and 12."""
        if self.on_frame is None or step == steps:
            return False
        return step * (self.frames + 1) // steps > (step - 1) * (self.frames + 1) // steps


class DrawingError(RuntimeError):
    """The model failed on a batch. What it raised is in the log."""


class BrokenError(DrawingError):
    """The model will never draw again; the process that holds it must be replaced.

    `began`: this very job was being drawn when it broke, so that it may be why.
    """

    def __init__(self, began: bool):
        super().__init__(began)
        self.began = began


class Abandoned(Exception):
    """Nobody waits for any image of the batch any more."""


@dataclass(frozen=True)
class Batch:
    """What a finished batch was, for whoever measures."""

    size: int
    waits_s: list[float]  # of each job in the queue
    steps_s: list[float]  # of each pass, previews included
    finished: bool


Waiting = tuple[Job, "asyncio.Future[Drawn]", float]  # and when it came


class Batcher:
    """Lives in one event loop, draws in a thread of its own, one batch at a time."""

    def __init__(
        self,
        max_batch_size: int,
        wait_s: float,
        observe: Callable[[Batch], None] = lambda batch: None,
    ):
        self.broken = False
        self._max, self._wait_s, self._observe = max_batch_size, wait_s, observe
        self._queue: list[Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._cramped: tuple[Pipe, int] | None = None  # the model for which a batch was too large, and its size since
        self._progress: float | None = None  # when the drawing thread last came a pass further; None: it rests
        # One thread and always the same: each that draws would start worker threads of its own (OpenMP's), and with
        # more of those than cores all get slow.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="drawing")
        self._seconds_an_image = 0.0

    @property
    def waiting(self) -> int:
        """Images in the queue, without those being drawn."""
        return len(self._queue)

    @property
    def backlog_s(self) -> float:
        """About how long the queue takes, by the batches before."""
        return self.waiting * self._seconds_an_image

    @property
    def stuck_s(self) -> float:
        """Seconds since the drawing last came a pass further. 0 where nothing is drawn."""
        return 0.0 if self._progress is None else time.monotonic() - self._progress

    async def draw(self, job: Job) -> Drawn:
        """The job's image. Cancelled, it is not drawn, or no further. Raises DrawingError where the model failed."""
        if self.broken:
            raise BrokenError(began=False)
        done: asyncio.Future[Drawn] = asyncio.get_running_loop().create_future()
        self._queue.append((job, done, time.monotonic()))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await done

    async def in_thread(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Does other work of the model where it draws, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def _work(self) -> None:
        """Until nothing waits."""
        while self._queue:
            if len(self._queue) < self._max:
                await asyncio.sleep(self._wait_s)
            if batch := self._next():
                await self._draw(batch)

    def _next(self) -> list[Waiting]:
        """Takes a batch off the queue, led by the oldest job that someone still waits for."""
        self._queue = [waiting for waiting in self._queue if not waiting[1].done()]
        if not self._queue:
            return []
        first = self._queue[0][0]
        if self._cramped and self._cramped[0] is not first.pipe:
            self._cramped = None  # a model that was replaced is not held on to
        most = self._cramped[1] if self._cramped else self._max
        batch = [waiting for waiting in self._queue if waiting[0].shares(first)][:most]
        taken = {id(waiting) for waiting in batch}
        self._queue = [waiting for waiting in self._queue if id(waiting) not in taken]
        return batch

    async def _draw(self, batch: list[Waiting]) -> None:
        started = self._progress = time.monotonic()
        drawing, drawn = _Drawing(batch, self._passed), list[Drawn]()
        try:
            drawn = await self.in_thread(drawing.run)
        except Abandoned:
            pass
        except Exception as error:  # whatever a model raises is the answer to this batch, not the end of the queue
            if isinstance(error, RuntimeError) and is_out_of_memory(error) and len(batch) > 1:
                return self._halve(batch)
            _log.exception("a batch of %d images failed", len(batch))
            await self._fail(batch)
        finally:
            self._progress = None
        if drawn:
            self._seconds_an_image = (time.monotonic() - started) / len(batch)
            for (_, done, _), result in zip(batch, drawn, strict=True):
                if not done.done():
                    done.set_result(result)
        waits_s = [started - came for _, _, came in batch]
        try:
            self._observe(Batch(len(batch), waits_s, drawing.steps_s, finished=bool(drawn)))
        except Exception:  # who waits for images has nothing to do with who counts them
            _log.exception("a batch was not counted")

    def _passed(self) -> None:
        """Called in the drawing thread after every pass."""
        self._progress = time.monotonic()

    def _halve(self, batch: list[Waiting]) -> None:
        half = (len(batch) + 1) // 2
        _log.warning("%d images do not fit into memory; from here on at most %d", len(batch), half)
        self._cramped = (batch[0][0].pipe, half)
        self._queue = batch + self._queue
        release()

    async def _fail(self, batch: list[Waiting]) -> None:
        """Tells the batch that it failed; where the model is broken, the whole queue."""
        try:
            await self.in_thread(warm_up, batch[0][0].pipe)
        except Exception:
            _log.exception("the model can't draw at all any more")
            self.broken = True
        for _, done, _ in batch:
            if not done.done():
                done.set_exception(BrokenError(began=True) if self.broken else DrawingError())
        if self.broken:
            for _, done, _ in self._queue:
                if not done.done():
                    done.set_exception(BrokenError(began=False))
            self._queue = []


class _Drawing:
    """A batch in its thread."""

    def __init__(self, batch: list[Waiting], passed: Callable[[], None]):
        self.steps_s: list[float] = []
        self._passed = passed
        self._jobs = [job for job, _, _ in batch]
        self._dones = [done for _, done, _ in batch]

    def run(self) -> list[Drawn]:
        jobs, last = self._jobs, None
        passes = jobs[0].pipe.passes(
            [job.prompt for job in jobs],
            [job.seed for job in jobs],
            jobs[0].settings,
            [job.canvas for job in jobs],
        )
        before = time.monotonic()
        for last in passes:
            last.wait()  # a GPU is ahead of its results, and would have drawn all passes before anybody could hang up
            if all(done.done() for done in self._dones):
                raise Abandoned
            self._show(last)
            now = time.monotonic()
            self.steps_s.append(now - before)
            before = now
            self._passed()
        assert last is not None, "a method without passes"
        scores = last.likelihood() if jobs[0].scored else [0.0] * len(jobs)
        self._passed()  # several passes more, and the images are still to be decoded
        return [Drawn(image, score, last.num_steps) for image, score in zip(last.images(), scores, strict=True)]

    def _show(self, after: Pass) -> None:
        """Hands a preview to every job that is due one and still waited for."""
        step, steps = after.step, after.num_steps
        rows = [i for i, job in enumerate(self._jobs) if job.wants(step, steps) and not self._dones[i].done()]
        if not rows:
            return
        known = after.known()
        for i, image in zip(rows, after.images(rows), strict=True):
            on_frame: Any = self._jobs[i].on_frame
            on_frame(Frame(step, steps, known[i], image))


def warm_up(pipe: Pipe) -> None:
    """Draws two passes and throws them away: the first image of a model takes longest."""
    for after in itertools.islice(pipe.passes(["a warm-up"], [0], pipe.settings(), [None]), 2):
        after.images()
