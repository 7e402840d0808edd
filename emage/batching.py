"""Pictures asked for one at a time, drawn together: a queue that shares one model among many waiters.

    batcher = Batcher(pipe, max_batch_size=8, wait_s=0.01)
    png = await batcher.draw(Job("a red bus", seed=7, settings=pipe.settings(), candidates=1, rank="none"))

1. A job joins the queue.
2. When the model is free, the oldest job takes along the next ones with equal settings, up to a full batch. A batch is
   put together no earlier: jobs that come while another batch is drawn would otherwise wait in half-empty ones.
3. The batch is drawn in a thread, each picture with its own seed, so that company changes no pixel.

It knows neither HTTP nor Ray.
"""

import asyncio
import io
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from PIL import Image

from emage.config import Rank, SamplingConfig

_log = logging.getLogger(__name__)


class Pipe(Protocol):
    """The part of emage.Emage that serving needs."""

    @property
    def size(self) -> tuple[int, int]: ...
    def settings(self, **sampling: Any) -> SamplingConfig: ...
    def num_cut(self, prompts: Sequence[str]) -> int: ...
    def generate(self, prompts: Sequence[str], *, seed: Sequence[int], **settings: Any) -> list[Image.Image]: ...


@dataclass(frozen=True)
class Job:
    """One picture to draw: the best of `candidates` by `rank`."""

    prompt: str
    seed: int
    settings: SamplingConfig
    candidates: int
    rank: Rank

    def shares(self, other: "Job") -> bool:
        """Whether both can be drawn in one call."""
        return (self.settings, self.candidates, self.rank) == (other.settings, other.candidates, other.rank)


class DrawingError(RuntimeError):
    """The model failed on a batch. What it raised is in the log."""


def draw(pipe: Pipe, jobs: Sequence[Job]) -> list[bytes]:
    """A PNG for each of a few jobs that can share a call."""
    first = jobs[0]
    pictures = pipe.generate(
        [job.prompt for job in jobs],
        seed=[job.seed for job in jobs],
        candidates=first.candidates,
        rank=first.rank,
        batch_size=len(jobs),
        **asdict(first.settings),
    )
    return [_png(picture) for picture in pictures]


class Batcher:
    """Lives in one event loop, draws in a thread of its own, one batch at a time."""

    def __init__(self, pipe: Pipe, max_batch_size: int, wait_s: float):
        self._pipe, self._max, self._wait_s = pipe, max_batch_size, wait_s
        self._queue: list[tuple[Job, asyncio.Future[bytes]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def draw(self, job: Job) -> bytes:
        """The job's PNG. Raises DrawingError where the model raised; cancelled while it waits, it is not drawn."""
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._queue.append((job, done))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await done

    async def _work(self) -> None:
        """Until nothing waits."""
        while self._queue:
            if len(self._queue) < self._max:
                await asyncio.sleep(self._wait_s)
            if not (batch := self._next()):
                continue
            try:
                pngs = await asyncio.to_thread(draw, self._pipe, [job for job, _ in batch])
            except Exception:  # whatever a model raises is the answer to this batch, not the end of the queue
                _log.exception("a batch of %d pictures failed", len(batch))
                for _, done in batch:
                    if not done.done():
                        done.set_exception(DrawingError())
            else:
                for (_, done), png in zip(batch, pngs, strict=True):
                    if not done.done():
                        done.set_result(png)

    def _next(self) -> list[tuple[Job, asyncio.Future[bytes]]]:
        """Takes a batch off the queue, led by the oldest job that someone still waits for."""
        self._queue = [(job, done) for job, done in self._queue if not done.cancelled()]
        batch = [pair for pair in self._queue if pair[0].shares(self._queue[0][0])][: self._max]
        taken = {id(pair) for pair in batch}
        self._queue = [pair for pair in self._queue if id(pair) not in taken]
        return batch


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
