"""The queue in front of a model, with a model that notes what it is asked for."""

import asyncio
import io
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from emage.batching import Batcher, DrawingError, Job
from emage.config import SamplingConfig


class NotingPipe:
    """Draws one pixel: red is the seed. Notes every call, and waits for `go` before it returns from one."""

    size = (1, 1)

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int]] = []
        self.go = threading.Event()

    def settings(self, **sampling: Any) -> SamplingConfig:
        return SamplingConfig(**sampling)

    def num_cut(self, prompts: Sequence[str]) -> int:
        return 0

    def generate(self, prompts: Sequence[str], *, seed: Sequence[int], steps: int, **_: Any) -> list[Image.Image]:
        self.calls.append((list(prompts), steps))
        assert self.go.wait(10)
        if "bad" in prompts:
            raise RuntimeError("out of memory")
        return [Image.new("RGB", (1, 1), (s, 0, 0)) for s in seed]


def job(prompt: str, seed: int = 0, steps: int = 4) -> Job:
    return Job(prompt, seed, SamplingConfig(steps=steps), candidates=1, rank="none")


def red(png: bytes) -> int:
    return Image.open(io.BytesIO(png)).tobytes()[0]


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_each_waiter_gets_the_picture_of_its_seed() -> None:
    async def scene() -> None:
        pipe = NotingPipe()
        pipe.go.set()
        batcher = Batcher(pipe, max_batch_size=4, wait_s=0.01)
        pngs = await asyncio.gather(*(batcher.draw(job("a", seed, steps=seed % 3 + 1)) for seed in range(20)))
        assert [red(png) for png in pngs] == list(range(20))
        assert max(len(prompts) for prompts, _ in pipe.calls) == 4

    asyncio.run(scene())


def test_batches_fill_up_while_the_model_is_busy() -> None:
    async def scene() -> None:
        pipe = NotingPipe()
        batcher = Batcher(pipe, max_batch_size=4, wait_s=0.001)
        waiting = [asyncio.create_task(batcher.draw(job("first")))]
        await until(lambda: pipe.calls)
        for prompt in "abcd":  # one by one, longer apart than `wait_s`
            waiting.append(asyncio.create_task(batcher.draw(job(prompt))))
            await asyncio.sleep(0.01)
        pipe.go.set()
        await asyncio.gather(*waiting)
        assert pipe.calls == [(["first"], 4), (["a", "b", "c", "d"], 4)]

    asyncio.run(scene())


def test_only_equal_settings_share_a_batch_and_the_oldest_goes_first() -> None:
    async def scene() -> None:
        pipe = NotingPipe()
        pipe.go.set()
        batcher = Batcher(pipe, max_batch_size=2, wait_s=0.01)
        jobs = [job("a", steps=4), job("b", steps=8), job("c", steps=4), job("d", steps=4), job("e", steps=8)]
        await asyncio.gather(*map(batcher.draw, jobs))
        assert pipe.calls == [(["a", "c"], 4), (["b", "e"], 8), (["d"], 4)]

    asyncio.run(scene())


def test_a_failed_batch_is_not_the_end_of_the_queue() -> None:
    async def scene() -> None:
        pipe = NotingPipe()
        pipe.go.set()
        batcher = Batcher(pipe, max_batch_size=2, wait_s=0.01)
        bad, good = batcher.draw(job("bad")), batcher.draw(job("good", seed=5, steps=8))
        failure, png = await asyncio.gather(bad, good, return_exceptions=True)
        assert isinstance(failure, DrawingError)
        assert isinstance(png, bytes) and red(png) == 5
        assert red(await batcher.draw(job("later", seed=6))) == 6

    asyncio.run(scene())


def test_who_gave_up_is_not_drawn() -> None:
    async def scene() -> None:
        pipe = NotingPipe()
        batcher = Batcher(pipe, max_batch_size=2, wait_s=0.001)
        first = asyncio.create_task(batcher.draw(job("first")))
        await until(lambda: pipe.calls)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(batcher.draw(job("impatient")), 0.02)
        last = asyncio.create_task(batcher.draw(job("last")))
        pipe.go.set()
        await asyncio.gather(first, last)
        assert pipe.calls == [(["first"], 4), (["last"], 4)]

    asyncio.run(scene())
