"""OpenAI's own client against the shipped model: what it generates, streams, edits and reports."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from api_requests import opened
from PIL import Image
from web import encode

import emage

PROMPT = "a small red circle above a large blue square"


@pytest.fixture(scope="module")
def client(endpoint: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{endpoint}/v1", api_key="none", max_retries=0)


def test_the_client_gets_the_models_images(client: openai.OpenAI, demo_pipe: emage.Emage) -> None:
    answer = client.images.generate(
        prompt=PROMPT, model="emage", n=2, size="64x64", response_format="b64_json", user="me", extra_body={"seed": 7}
    )
    assert answer.data and abs(answer.created - time.time()) < 60
    expected = demo_pipe.generate([PROMPT] * 2, seed=[7, 8])
    assert [opened(item.b64_json).tobytes() for item in answer.data] == [image.tobytes() for image in expected]


def test_the_client_sends_every_setting(client: openai.OpenAI, demo_pipe: emage.Emage) -> None:
    settings: dict[str, Any] = {"steps": 5, "schedule": "linear", "order": "random", "temperature": 0.9, "top_p": 0.95}
    extra = {"seed": 3, "candidates": 3, "rank": "likelihood", **settings}
    answer = client.images.generate(prompt=PROMPT, extra_body=extra)
    (expected,) = demo_pipe.generate(PROMPT, seed=3, candidates=3, **settings)
    assert answer.data and opened(answer.data[0].b64_json).tobytes() == expected.tobytes()


def test_the_client_streams_the_models_previews(client: openai.OpenAI, demo_pipe: emage.Emage) -> None:
    got = list(client.images.generate(prompt=PROMPT, stream=True, extra_body={"seed": 7}))
    *frames, last = demo_pipe.stream(PROMPT, seed=7)
    assert [event.type for event in got] == ["image_generation.partial_image"] * 15 + ["image_generation.completed"]
    for event, frame in zip(got, [*frames, last], strict=True):
        assert opened(event.b64_json).convert("RGB").tobytes() == frame.tobytes()
    assert [event.partial_image_index for event in got if event.type.endswith("partial_image")] == list(range(15))
    three = client.images.generate(prompt=PROMPT, stream=True, partial_images=3, extra_body={"seed": 7})
    assert len(list(three)) == 4


def test_the_client_edits(client: openai.OpenAI, demo_pipe: emage.Emage) -> None:
    (image,) = demo_pipe.generate(PROMPT, seed=7)
    mask = Image.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 32, 64, 64))
    other = "a small red circle above a large green cross"
    answer = client.images.edit(
        image=encode(image), mask=encode(mask), prompt=other, extra_body={"seed": 3, "steps": 6}
    )
    white = Image.new("L", (64, 64))
    white.paste(255, (0, 32, 64, 64))
    assert answer.data
    assert (
        opened(answer.data[0].b64_json).tobytes() == demo_pipe.inpaint(image, white, other, seed=3, steps=6).tobytes()
    )
    streamed = client.images.edit(
        image=[encode(image)], mask=encode(mask), prompt=other, stream=True, extra_body={"steps": 6}
    )
    assert [event.type for event in streamed] == ["image_edit.partial_image"] * 5 + ["image_edit.completed"]


def test_the_client_lists_models_and_raises_errors(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["emage"] and client.models.retrieve("emage").id == "emage"
    with pytest.raises(openai.BadRequestError, match=r"steps=0: must be a whole number of at least 1") as caught:
        client.images.generate(prompt="a", extra_body={"steps": 0})
    assert (caught.value.param, caught.value.code) == ("steps", "invalid_value")
    with pytest.raises(openai.NotFoundError, match="only 'emage'"):
        client.images.generate(prompt="a", model="dall-e-9")


def test_pixels_do_not_depend_on_the_rest_of_the_batch(client: openai.OpenAI, demo_pipe: emage.Emage) -> None:
    requests = [{"seed": i, "steps": 4 + i % 2, "candidates": 1 + i // 6} for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda extra: client.images.generate(prompt=PROMPT, extra_body=extra), requests))
    for answer, extra in zip(answers, requests, strict=True):
        (expected,) = demo_pipe.generate(PROMPT, **extra)
        assert answer.data and opened(answer.data[0].b64_json).tobytes() == expected.tobytes()
