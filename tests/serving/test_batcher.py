"""The queue in front of a model, with a model that records its batches."""

import asyncio
import threading
from typing import Any

import pytest
from fake_pipe import FakePipe, colour

from emage.config import SamplingConfig
from emage.serving.batch_types import (
    BatchRecord,
    BrokenModelError,
    FinishedImage,
    GenerationError,
    IntermediateImage,
    QueuedImage,
)
from emage.serving.batcher import Batcher, warm_up


def queued_image(pipe: FakePipe, prompt: str, seed: int = 0, steps: int = 4, **more: Any) -> QueuedImage:
    return QueuedImage(pipe, prompt, seed, SamplingConfig(steps=steps), **more)


def is_correct(finished: FinishedImage, queued: QueuedImage) -> bool:
    return finished.image.getpixel((0, 0)) == colour(
        queued.prompt, queued.seed, queued.settings.steps, queued.inpainting_input
    )


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.002)


def test_each_request_gets_the_image_of_its_seed() -> None:
    async def scene() -> None:
        pipe = FakePipe()
        batcher = Batcher(max_batch_size=4, wait_s=0.01)
        images = [
            queued_image(pipe, "a", seed, steps=seed % 3 + 1, inpainting_input=seed % 2 or None) for seed in range(20)
        ]
        finished = await asyncio.gather(*map(batcher.generate, images))
        assert all(map(is_correct, finished, images))
        assert max(len(prompts) for prompts, _ in pipe.batches) == 4

    asyncio.run(scene())


def test_batches_fill_up_while_the_model_is_busy() -> None:
    async def scene() -> None:
        go = threading.Event()
        pipe = FakePipe(go=go)
        batcher = Batcher(max_batch_size=4, wait_s=0.001)
        waiting = [asyncio.create_task(batcher.generate(queued_image(pipe, "first")))]
        await until(lambda: pipe.batches)
        for prompt in "abcd":  # one by one, longer apart than `wait_s`
            waiting.append(asyncio.create_task(batcher.generate(queued_image(pipe, prompt))))
            await asyncio.sleep(0.01)
        go.set()
        await asyncio.gather(*waiting)
        assert pipe.batches == [(["first"], 4), (["a", "b", "c", "d"], 4)]

    asyncio.run(scene())


def test_only_equal_settings_share_a_batch_and_the_oldest_goes_first() -> None:
    async def scene() -> None:
        pipe = FakePipe()
        batcher = Batcher(max_batch_size=2, wait_s=0.01)
        images = [
            queued_image(pipe, "a"),
            queued_image(pipe, "b", steps=8),
            queued_image(pipe, "c"),
            queued_image(pipe, "d"),
            queued_image(pipe, "e", steps=8),
            queued_image(pipe, "f", scored=True),
        ]
        await asyncio.gather(*map(batcher.generate, images))
        assert pipe.batches == [(["a", "c"], 4), (["b", "e"], 8), (["d"], 4), (["f"], 4)]

    asyncio.run(scene())


def test_a_failed_batch_is_not_the_end_of_the_queue() -> None:
    async def scene() -> None:
        pipe, batcher = FakePipe(), Batcher(max_batch_size=2, wait_s=0.01)
        good, later = queued_image(pipe, "good", seed=5, steps=8), queued_image(pipe, "later", seed=6)
        failure, finished = await asyncio.gather(
            batcher.generate(queued_image(pipe, "fails")), batcher.generate(good), return_exceptions=True
        )
        assert isinstance(failure, GenerationError) and not isinstance(failure, BrokenModelError) and not batcher.broken
        assert isinstance(finished, FinishedImage) and is_correct(finished, good)
        assert is_correct(await batcher.generate(later), later)

    asyncio.run(scene())


def test_a_broken_model_fails_all_waiting_requests() -> None:
    async def scene() -> None:
        pipe, batcher = FakePipe(), Batcher(max_batch_size=1, wait_s=0.0)
        both = (queued_image(pipe, "breaks"), queued_image(pipe, "good"))
        failures = await asyncio.gather(*map(batcher.generate, both), return_exceptions=True)
        during = [failure.during for failure in failures if isinstance(failure, BrokenModelError)]
        assert during == [True, False] and batcher.broken
        with pytest.raises(BrokenModelError):
            await batcher.generate(queued_image(pipe, "good"))

    asyncio.run(scene())


def test_a_batch_that_does_not_fit_into_memory_is_split() -> None:
    async def scene() -> None:
        pipe = FakePipe()
        batcher = Batcher(max_batch_size=8, wait_s=0.01)
        images = [queued_image(pipe, "large", seed) for seed in range(8)]
        finished = await asyncio.gather(*map(batcher.generate, images))
        assert all(map(is_correct, finished, images))
        assert [len(prompts) for prompts, _ in pipe.batches] == [8, 4, 2, 2, 2, 2]

    asyncio.run(scene())


def test_each_image_is_generated_by_the_model_that_accepted_it() -> None:
    async def scene() -> None:
        old, new = FakePipe(), FakePipe()
        batcher = Batcher(max_batch_size=8, wait_s=0.01)
        images = [
            queued_image(old, "large", 1),
            queued_image(new, "b", 2),
            queued_image(old, "large", 3),
            queued_image(old, "large", 4),
            queued_image(new, "c", 5),
        ]
        assert all(map(is_correct, await asyncio.gather(*map(batcher.generate, images)), images))
        halves = [(["large"] * 3, 4), (["large"] * 2, 4), (["large"], 4)]
        assert (old.batches, new.batches) == (halves, [(["b", "c"], 4)])  # the new one's batches are whole again

    asyncio.run(scene())


def test_a_metrics_failure_fails_no_request() -> None:
    def fails(record: BatchRecord) -> None:
        raise OSError("the metrics are gone")

    async def scene() -> None:
        pipe, batcher = FakePipe(), Batcher(max_batch_size=1, wait_s=0.0, observe=fails)
        assert len(await asyncio.gather(*(batcher.generate(queued_image(pipe, "a", seed)) for seed in range(4)))) == 4

    asyncio.run(scene())


def test_a_stuck_batch_is_visible() -> None:
    async def scene() -> None:
        go = threading.Event()
        pipe, batcher = FakePipe(go=go), Batcher(max_batch_size=1, wait_s=0.0)
        assert batcher.stuck_s == 0.0
        task = asyncio.create_task(batcher.generate(queued_image(pipe, "a")))
        await asyncio.sleep(0.3)
        assert batcher.stuck_s > 0.2
        go.set()
        await task
        assert batcher.stuck_s == 0.0

    asyncio.run(scene())


def test_a_cancelled_image_is_not_generated() -> None:
    async def scene() -> None:
        go = threading.Event()
        pipe = FakePipe(go=go)
        batcher = Batcher(max_batch_size=2, wait_s=0.001)
        first = asyncio.create_task(batcher.generate(queued_image(pipe, "first")))
        await until(lambda: pipe.batches)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(batcher.generate(queued_image(pipe, "impatient")), 0.02)
        last = asyncio.create_task(batcher.generate(queued_image(pipe, "last")))
        go.set()
        await asyncio.gather(first, last)
        assert pipe.batches == [(["first"], 4), (["last"], 4)]

    asyncio.run(scene())


def test_generation_stops_between_two_steps_when_all_have_cancelled() -> None:
    async def scene() -> None:
        pipe, batches = FakePipe(), list[BatchRecord]()
        batcher = Batcher(max_batch_size=2, wait_s=0.001, observe=batches.append)
        alone = asyncio.create_task(batcher.generate(queued_image(pipe, "busy", steps=40)))
        await until(lambda: pipe.num_steps_done == 2)
        alone.cancel()
        await until(lambda: batches)
        assert pipe.num_steps_done <= 4 and not batches[0].finished

        leaver, stayer = (
            asyncio.create_task(batcher.generate(queued_image(pipe, "busy", seed, steps=5))) for seed in (1, 2)
        )
        await until(lambda: pipe.num_steps_done > 5)
        leaver.cancel()
        assert is_correct(await stayer, queued_image(pipe, "busy", 2, steps=5))
        await until(lambda: len(batches) == 2)
        assert batches[1].finished and batches[1].size == 2 and len(batches[1].steps_s) == 5

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("frames", "steps", "after"),
    [(0, 16, []), (3, 16, [4, 8, 12]), (1, 4, [2]), (15, 16, list(range(1, 16))), (64, 4, [1, 2, 3]), (2, 1, [])],
)
def test_previews_are_spread_over_the_steps_before_the_last(frames: int, steps: int, after: list[int]) -> None:
    async def scene() -> None:
        seen: list[IntermediateImage] = []
        pipe, batcher = FakePipe(), Batcher(max_batch_size=2, wait_s=0.001)
        await asyncio.gather(
            batcher.generate(queued_image(pipe, "a", steps=steps, num_previews=frames, on_preview=seen.append)),
            batcher.generate(queued_image(pipe, "b", steps=steps)),
        )
        assert [frame.step for frame in seen] == after
        assert [frame.unmasked for frame in seen] == [step / steps for step in after]
        assert [frame.image.getpixel((0, 0))[0] for frame in seen] == [255 * step // steps for step in after]

    asyncio.run(scene())


def test_the_backlog_is_estimated_in_seconds() -> None:
    async def scene() -> None:
        pipe, batcher = FakePipe(), Batcher(max_batch_size=1, wait_s=0.0)
        await batcher.generate(queued_image(pipe, "busy"))  # 4 x 0.05 s
        tasks = [asyncio.create_task(batcher.generate(queued_image(pipe, "busy", seed))) for seed in range(6)]
        await until(lambda: batcher.waiting == 5)
        assert 5 * 0.2 <= batcher.backlog_s < 5 * 2.0
        for task in tasks:
            task.cancel()

    asyncio.run(scene())


def test_one_slow_batch_does_not_make_the_estimate() -> None:
    async def scene() -> None:
        pipe, batcher = FakePipe(), Batcher(max_batch_size=2, wait_s=0.0)
        assert batcher.backlog_s == 0
        for _ in range(11):  # batches of one image, of 0.05 s
            await batcher.generate(queued_image(pipe, "busy", steps=1))
        await batcher.generate(queued_image(pipe, "slow", steps=4))  # 1.2 s
        tasks = [asyncio.create_task(batcher.generate(queued_image(pipe, "busy", seed))) for seed in range(12)]
        await until(lambda: batcher.waiting == 10)
        assert 10 * 0.1 <= batcher.backlog_s < 10 * 0.6  # by the mean: (11 x 0.05 + 1.2) / 12 = 0.15 s
        for task in tasks:
            task.cancel()

    asyncio.run(scene())


def test_a_warm_up_runs_two_steps() -> None:
    pipe = FakePipe()
    warm_up(pipe)
    assert pipe.num_steps_done == 2
