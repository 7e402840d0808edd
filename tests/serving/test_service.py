"""Requests in, images out, over a model of one colour."""

import asyncio
import io
from collections.abc import Callable
from typing import Any

import pytest
from fake_pipe import FakePipe, colour
from PIL import Image
from web import encode

from emage.inference.seeds import candidate_seed
from emage.serving.limits import MAX_RETRY_AFTER_S
from emage.serving.request import GeneratedImage, GenerationRequest, PreviewImage, RequestError
from emage.serving.service import QueueLimits, Service


def first_pixel(file: bytes) -> Any:
    return Image.open(io.BytesIO(file)).getpixel((0, 0))


def run(request: GenerationRequest, pipe: FakePipe | None = None, **more: Any) -> list[GeneratedImage]:
    async def scene() -> list[GeneratedImage]:
        return await Service(pipe or FakePipe(), QueueLimits(**more)).generate(request)

    return asyncio.run(scene())


def rejection(request: GenerationRequest, safety: Callable | None = None) -> RequestError:
    async def scene() -> None:
        await Service(FakePipe(), QueueLimits(), safety).generate(request)

    with pytest.raises(RequestError) as caught:
        asyncio.run(scene())
    return caught.value


def test_n_images_have_consecutive_seeds() -> None:
    images = sorted(run(GenerationRequest("a", n=3, seed=7)), key=lambda image: image.index)
    assert [image.seed for image in images] == [7, 8, 9]
    assert [first_pixel(image.file) for image in images] == [colour("a", seed, 4) for seed in (7, 8, 9)]


def test_the_best_candidate_is_returned() -> None:
    colours = [colour("a", candidate_seed(7, c), 4) for c in range(5)]
    (image,) = run(GenerationRequest("a", seed=7, candidates=5))
    assert first_pixel(image.file) == max(colours) != colours[0] and image.seed == 7
    pipe = FakePipe()
    (first,) = run(GenerationRequest("a", seed=7, candidates=5, rank="none"), pipe)
    assert first_pixel(first.file) == colours[0] and pipe.batches == [(["a"], 4)]


def test_a_stream_has_previews_before_each_image() -> None:
    async def scene() -> list[PreviewImage | GeneratedImage]:
        stream = Service(FakePipe(), QueueLimits()).stream(GenerationRequest("a", n=2, seed=7, num_previews=None))
        return [event async for event in stream]

    events = asyncio.run(scene())
    for index in range(2):
        *previews, last = [event for event in events if event.index == index]
        assert [(p.preview_index, p.step, p.steps, p.unmasked) for p in previews if isinstance(p, PreviewImage)] == [
            (0, 1, 4, 0.25),
            (1, 2, 4, 0.5),
            (2, 3, 4, 0.75),
        ]
        assert isinstance(last, GeneratedImage) and last.steps == 4
        assert first_pixel(last.file) == colour("a", 7 + index, 4)


def test_closing_a_stream_cancels_the_generation() -> None:
    async def scene() -> None:
        pipe = FakePipe()
        stream = Service(pipe, QueueLimits()).stream(
            GenerationRequest("busy", sampling={"steps": 40}, num_previews=None)
        )
        await anext(stream)
        await stream.aclose()
        before = pipe.num_steps_done
        await asyncio.sleep(0.5)
        assert pipe.num_steps_done <= before + 2

    asyncio.run(scene())


def test_an_edit_starts_from_the_image() -> None:
    image, mask = Image.new("RGB", (24, 16), (1, 2, 3)), Image.new("L", (24, 16))
    mask.putpixel((23, 0), 255)
    (finished,) = run(GenerationRequest("a", image=encode(image), mask=encode(mask)))
    assert first_pixel(finished.file) == colour("a", 0, 4, ((1, 2, 3), 0, 255))


@pytest.mark.parametrize(
    ("wanted", "status", "param", "text"),
    [
        (GenerationRequest(" \n"), 400, "prompt", "blank"),
        (GenerationRequest("a", size="1x1"), 400, "size", "24x16"),
        (GenerationRequest("a", sampling={"steps": 0}), 400, "steps", "steps=0: must be a whole number from 1 to 96"),
        (GenerationRequest("fails"), 500, None, "the server's log has the reason"),
        (GenerationRequest("breaks"), 503, None, "being replaced"),
    ],
)
def test_a_request_that_cannot_be_fulfilled_is_rejected(
    wanted: GenerationRequest, status: int, param: str | None, text: str
) -> None:
    caught = rejection(wanted)
    assert (caught.status, caught.param) == (status, param) and text in caught.message


def test_an_invalid_request_does_not_fail_the_others() -> None:
    async def scene() -> None:
        service = Service(FakePipe(), QueueLimits())
        requests = [
            GenerationRequest("a", seed=1),
            GenerationRequest("a", seed=2, sampling={"steps": 0}),
            GenerationRequest("a", seed=3),
        ]
        one, bad, other = await asyncio.gather(*map(service.generate, requests), return_exceptions=True)
        assert isinstance(bad, RequestError) and isinstance(one, list) and isinstance(other, list)

    asyncio.run(scene())


def test_a_full_queue_rejects_and_states_when_to_retry() -> None:
    async def scene() -> None:
        service = Service(FakePipe(), QueueLimits(max_batch_size=1, max_queued=10))
        await service.generate(GenerationRequest("busy"))
        large = GenerationRequest("busy", n=10, candidates=16)  # more than the queue holds: accepted, nothing waits
        whole = asyncio.create_task(service.generate(large))
        await asyncio.sleep(0.1)
        with pytest.raises(RequestError) as caught:
            await service.generate(GenerationRequest("a"))
        assert caught.value.status == 429 and caught.value.retry_s >= 150 * 0.2  # 158 wait, 4 x 0.05 s each
        whole.cancel()
        await asyncio.sleep(0.5)
        assert len(await service.generate(GenerationRequest("a"))) == 1
        await service.generate(GenerationRequest("slow", sampling={"steps": 10}))  # 3 s
        whole = asyncio.create_task(service.generate(large))
        await asyncio.sleep(0.1)
        with pytest.raises(RequestError) as caught:
            await service.generate(GenerationRequest("a"))
        assert caught.value.retry_s == MAX_RETRY_AFTER_S  # of 158 x 1.1 s
        whole.cancel()

    asyncio.run(scene())


def test_unranked_candidates_are_not_queued() -> None:
    async def scene() -> None:
        service = Service(FakePipe(), QueueLimits(max_batch_size=1, max_queued=3))
        running = asyncio.create_task(service.generate(GenerationRequest("busy", n=2, candidates=16, rank="none")))
        await asyncio.sleep(0.05)
        assert len(await service.generate(GenerationRequest("a"))) == 1
        await running

    asyncio.run(scene())


def test_candidates_of_a_failed_image_are_not_generated() -> None:
    async def scene() -> None:
        pipe = FakePipe()
        service = Service(pipe, QueueLimits(max_batch_size=1))
        with pytest.raises(RequestError):
            await service.generate(GenerationRequest("fails", candidates=8))
        await service.generate(GenerationRequest("a"))
        assert pipe.batches[-1] == (["a"], 4) and len(pipe.batches) <= 3

    asyncio.run(scene())


def test_the_safety_hook_sees_prompt_and_image() -> None:
    def no_red(prompt: str, image: Image.Image | None) -> str | None:
        if image is None:
            return "not this word" if "bomb" in prompt else None
        return "too light" if image.getpixel((0, 0)) == colour("dark", 0, 4) else None

    def fails(prompt: str, image: Image.Image | None) -> str | None:
        raise OSError("the list is gone")

    for request, text in (
        (GenerationRequest("a bomb"), "not this word"),
        (GenerationRequest("dark"), "withheld: too light"),
    ):
        caught = rejection(request, no_red)
        assert caught.code == "content_policy_violation" and text in caught.message
    assert "safety check failed" in rejection(GenerationRequest("a"), fails).message


def test_a_model_is_replaced_between_two_batches() -> None:
    async def scene() -> None:
        old, new = FakePipe(step=1), FakePipe(step=2)
        service = Service(old, QueueLimits())
        running = asyncio.create_task(service.generate(GenerationRequest("busy")))
        while not old.num_steps_done:
            await asyncio.sleep(0.01)
        await service.replace(new)
        assert (await service.describe())["step"] == 2
        await service.generate(GenerationRequest("a"))
        await running
        assert old.batches == [(["busy"], 4)] and new.batches == [(["a"], 4)]
        with pytest.raises(RuntimeError):
            broken = FakePipe()
            broken._broken = True
            await service.replace(broken)
        assert (await service.describe())["step"] == 2

    asyncio.run(scene())


def test_an_error_can_be_pickled() -> None:
    import pickle

    caught = RequestError("rate_limit_exceeded", "later", "prompt", retry_s=3)
    assert vars(pickle.loads(pickle.dumps(caught))) == vars(caught)
