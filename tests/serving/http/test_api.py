"""The HTTP API with a model of one colour: answers, events, errors, who is let in. And with the official client."""

import base64
import hashlib
import io
import itertools
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from typing import Any

import httpx
import openai
import pytest
from fake_pipe import FakePipe, colour
from in_process import serving
from PIL import Image
from web import encode

import emage
from emage.config import SamplingConfig
from emage.serving.http import schemas
from emage.serving.http.app import Options, make_app
from emage.serving.http.auth import AccessOptions
from emage.serving.service import QueueLimits, Service

KEY = "sésame, ouvre-toi"
PROMPT = "a small red circle above a large blue square"


@pytest.fixture(scope="module")
def pipe() -> FakePipe:
    return FakePipe()


@pytest.fixture(scope="module")
def url(pipe: FakePipe) -> Iterator[str]:
    options = Options(timeout_s=1.5, access=AccessOptions(max_body=200_000, body_timeout_s=1.0))
    with serving(lambda: make_app(Service(pipe, QueueLimits(max_queued=16)), options)) as address:
        yield address


@pytest.fixture(scope="module")
def locked_url() -> Iterator[str]:
    access = AccessOptions(hashlib.sha256(KEY.encode("latin-1")).hexdigest(), origins=("https://friend.example",))
    with serving(lambda: make_app(Service(FakePipe(), QueueLimits()), Options(access=access))) as address:
        yield address


@pytest.fixture(scope="module")
def client(endpoint: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{endpoint}/v1", api_key="none", max_retries=0)


def post(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/images/generations", json=body, timeout=30)


def edit(url: str, files: dict[str, bytes], **form: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/images/edits", data=form, files=files, timeout=30)


def opened(b64: str | None) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(b64 or "")))


def colours(answer: httpx.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    return [opened(item["b64_json"]).getpixel((0, 0)) for item in answer.json()["data"]]


def events(text: str) -> list[tuple[str, dict[str, Any]]]:
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


# --- The official client, with the shipped model ----------------------------------------------------------------------


def test_the_client_draws_what_the_model_draws(client: openai.OpenAI, demo_pipe: emage.Emage) -> None:
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


def test_the_client_streams_what_the_model_streams(client: openai.OpenAI, demo_pipe: emage.Emage) -> None:
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


def test_the_client_lists_models_and_understands_errors(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["emage"] and client.models.retrieve("emage").id == "emage"
    with pytest.raises(openai.BadRequestError, match=r"steps=0: must be a whole number of at least 1") as refused:
        client.images.generate(prompt="a", extra_body={"steps": 0})
    assert (refused.value.param, refused.value.code) == ("steps", "invalid_value")
    with pytest.raises(openai.NotFoundError, match="only 'emage'"):
        client.images.generate(prompt="a", model="dall-e-9")


def test_same_seed_same_pixels_in_any_company(client: openai.OpenAI, demo_pipe: emage.Emage) -> None:
    asked = [{"seed": i, "steps": 4 + i % 2, "candidates": 1 + i // 6} for i in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda extra: client.images.generate(prompt=PROMPT, extra_body=extra), asked))
    for answer, extra in zip(answers, asked, strict=True):
        (expected,) = demo_pipe.generate(PROMPT, **extra)
        assert answer.data and opened(answer.data[0].b64_json).tobytes() == expected.tobytes()


# --- Answers ----------------------------------------------------------------------------------------------------------


def test_every_sampling_setting_can_be_asked_for() -> None:
    assert {item.name for item in fields(SamplingConfig)} <= set(schemas.ImageRequest.model_fields)


def test_a_request_gives_an_image_that_its_seed_gives_again(url: str) -> None:
    answer = post(url, prompt="a red bus")
    seed = answer.json()["data"][0]["seed"]
    assert colours(answer) == [colour("a red bus", seed, 4)] == colours(post(url, prompt="a red bus", seed=seed))
    assert post(url, prompt="a red bus").json()["data"][0]["seed"] != seed
    assert not answer.json()["prompt_cut"] and post(url, prompt="a red bus " * 20).json()["prompt_cut"]


def test_an_image_can_be_a_jpeg(url: str) -> None:
    answer = post(url, prompt="a", output_format="jpeg").json()
    assert answer["output_format"] == "jpeg" and opened(answer["data"][0]["b64_json"]).format == "JPEG"


def test_events_tell_which_image_and_how_far(url: str) -> None:
    answer = post(url, prompt="a", n=2, seed=7, stream=True, steps=3)
    assert answer.headers["content-type"].startswith("text/event-stream")
    got = events(answer.text)
    for index in (0, 1):
        mine = [(name, data) for name, data in got if data["index"] == index]
        assert [(name, data["step"], data["steps"]) for name, data in mine] == [
            ("image_generation.partial_image", 1, 3),
            ("image_generation.partial_image", 2, 3),
            ("image_generation.completed", 3, 3),
        ]
        assert {data["seed"] for _, data in mine} == {7 + index} and {data["size"] for _, data in mine} == {"24x16"}
        assert opened(mine[-1][1]["b64_json"]).getpixel((0, 0)) == colour("a", 7 + index, 3)


def test_events_come_while_the_image_is_drawn(url: str) -> None:
    body = {"prompt": "slow", "stream": True, "steps": 4}  # 0.3 s a pass
    times = []
    with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=30) as answer:
        for line in answer.iter_lines():
            if line.startswith("event:"):
                times.append(time.monotonic())
    assert len(times) == 4 and all(0.15 < later - sooner < 0.9 for sooner, later in itertools.pairwise(times))


def test_who_hangs_up_stops_the_drawing(url: str, pipe: FakePipe) -> None:
    body = {"prompt": "busy", "stream": True, "steps": 90}
    with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=30) as answer:
        next(answer.iter_lines())
    time.sleep(0.3)
    before = pipe.num_steps_done
    time.sleep(0.5)
    assert pipe.num_steps_done == before


# --- Errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": "  "}, "prompt", "invalid_value"),
        ({"prompt": "x" * 4001}, "prompt", "invalid_value"),
        ({"prompt": 7}, "prompt", "invalid_value"),
        ({"prompt": "a", "n": 0}, "n", "invalid_value"),
        ({"prompt": "a", "n": 11}, "n", "invalid_value"),
        ({"prompt": "a", "n": "2"}, "n", "invalid_value"),
        ({"prompt": "a", "size": "1024x1024"}, "size", "invalid_value"),
        ({"prompt": "a", "response_format": "url"}, "response_format", "invalid_value"),
        ({"prompt": "a", "seed": -1}, "seed", "invalid_value"),
        ({"prompt": "a", "steps": 0}, "steps", "invalid_value"),
        ({"prompt": "a", "schedule": "sine"}, "schedule", "invalid_value"),
        ({"prompt": "a", "stepz": 4}, "stepz", "unknown_parameter"),
        ({"prompt": "a", "stream": True, "steps": 0}, "steps", "invalid_value"),
    ],
)
def test_what_is_wrong_with_a_request_is_said(url: str, body: dict[str, Any], param: str, code: str) -> None:
    answer = post(url, **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert param in error["message"] and "\n" not in error["message"]


def test_what_is_wrong_with_an_edit_is_said(url: str) -> None:
    image = encode(Image.new("RGB", (24, 16)))
    answers = {
        ("image", "missing_required_parameter"): edit(url, {"mask": image}, prompt="a"),
        ("prompt", "missing_required_parameter"): edit(url, {"image": image, "mask": image}),
        ("mask", "missing_required_parameter"): edit(url, {"image": image}, prompt="a"),
        ("image", "invalid_image"): edit(url, {"image": b"<html>"}, prompt="a"),
        ("n", "invalid_value"): edit(url, {"image": image}, prompt="a", n="two"),
        ("picture", "unknown_parameter"): edit(url, {"picture": image}, prompt="a"),
        ("stepz", "unknown_parameter"): edit(url, {"image": image}, prompt="a", stepz="4"),
    }
    for (param, code), answer in answers.items():
        assert answer.status_code == 400, answer.text
        assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)
    assert httpx.post(f"{url}/v1/images/edits", json={"prompt": "a"}).json()["error"]["code"] == "invalid_form"


def test_other_errors_have_the_apis_form_too(url: str) -> None:
    unreadable = httpx.post(f"{url}/v1/images/generations", content=b"{", headers={"Content-Type": "application/json"})
    answers = {
        (400, "invalid_json"): unreadable,
        (404, "model_not_found"): post(url, prompt="a", model="other"),
        (404, "not_found"): httpx.get(f"{url}/v2"),
        (405, "method_not_allowed"): httpx.get(f"{url}/v1/images/generations"),
        (413, "request_too_large"): post(url, prompt="a", user="x" * 300_000),
        (500, "drawing_failed"): post(url, prompt="fails"),
        (408, "timeout"): post(url, prompt="slow", steps=90),
    }
    for (status, code), answer in answers.items():
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert "Traceback" not in answer.text and "CUDA" not in answer.text
    assert post(url, prompt="a", steps=4).status_code == 200


def test_what_goes_wrong_in_a_stream_is_its_last_event(url: str) -> None:
    late = events(post(url, prompt="slow", steps=90, stream=True).text)
    assert late[0][0] == "image_generation.partial_image"
    assert late[-1][0] == "error" and late[-1][1]["error"]["code"] == "timeout"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.APIError, match=r"no image within 1\.5 s"):
        list(client.images.generate(prompt="slow", stream=True, extra_body={"steps": 90}))


def test_overload_is_refused_at_once() -> None:
    limits = QueueLimits(max_queued=16)
    with serving(lambda: make_app(Service(FakePipe(), limits), Options())) as url, ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda seed: post(url, prompt="busy", seed=seed), range(60)))
    refused = [answer for answer in answers if answer.status_code != 200]
    drawn = [answer for answer in answers if answer.status_code == 200]
    assert len(drawn) >= 24 and len(refused) >= 10
    for answer in refused:
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(answer.headers["Retry-After"]) >= 1


def test_a_model_that_broke_is_not_ready() -> None:
    with serving(lambda: make_app(Service(FakePipe(), QueueLimits()), Options())) as url:
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        assert post(url, prompt="breaks").status_code == 503
        for answer in (httpx.get(f"{url}/health"), httpx.get(f"{url}/v1/models"), post(url, prompt="a")):
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "model_broken"
            assert answer.headers["Retry-After"]


# --- Who is let in ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"Host": "rebound.example"}, "host_not_allowed"),
        ({"Origin": "https://evil.example"}, "origin_not_allowed"),
        ({"Origin": "null"}, "origin_not_allowed"),
    ],
)
def test_without_a_key_other_sites_are_kept_out(url: str, headers: dict[str, str], code: str) -> None:
    answer = httpx.post(f"{url}/v1/images/generations", json={"prompt": "a"}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, code)
    own = {"Origin": url, "Host": url.removeprefix("http://")}
    assert httpx.post(f"{url}/v1/images/generations", json={"prompt": "a"}, headers=own).status_code == 200


def test_without_a_key_other_machines_are_kept_out() -> None:
    import asyncio

    async def ask(peer: str) -> int:
        seen: list[dict[str, Any]] = []
        app = make_app(Service(FakePipe(), QueueLimits()), Options())
        transport = httpx.ASGITransport(app, client=(peer, 5000))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            answer = await client.get("/health")
        seen.append(answer.json())
        return answer.status_code

    assert [asyncio.run(ask(peer)) for peer in ("127.0.0.1", "::1", "192.0.2.7")] == [200, 200, 401]


def test_a_key_is_asked_for(locked_url: str) -> None:
    for path in ("/", "/health", "/docs", "/openapi.json", "/page/app.js"):
        assert httpx.get(locked_url + path).status_code == 200, path
    assert httpx.get(f"{locked_url}/v1/models").headers["WWW-Authenticate"] == "Bearer"
    for key in ("x", "wrong", KEY[:-1]):
        headers = {b"Authorization": f"Bearer {key}".encode("latin-1")}
        answer = httpx.post(f"{locked_url}/v1/images/generations", json={"prompt": "a"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
    right = {b"Authorization": f"Bearer {KEY}".encode("latin-1")}
    assert httpx.get(f"{locked_url}/v1/models", headers=right).status_code == 200


def test_pages_of_named_sites_may_use_it(locked_url: str) -> None:
    ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type"}
    friend = httpx.options(f"{locked_url}/v1/images/generations", headers={"Origin": "https://friend.example", **ask})
    assert friend.headers["Access-Control-Allow-Origin"] == "https://friend.example"
    refused = httpx.get(f"{locked_url}/v1/models", headers={"Origin": "https://friend.example"})
    assert refused.status_code == 401 and refused.headers["Access-Control-Allow-Origin"] == "https://friend.example"
    other = httpx.options(f"{locked_url}/v1/images/generations", headers={"Origin": "https://evil.example", **ask})
    assert "Access-Control-Allow-Origin" not in other.headers


def test_the_page_and_the_description_need_nothing_from_outside(endpoint: str) -> None:
    page = httpx.get(endpoint)
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    for text in (page.text, httpx.get(f"{endpoint}/docs").text):
        assert not re.search(r"""(src|href)=["'](https?:)?//""", text)
    described = httpx.get(f"{endpoint}/openapi.json").json()
    assert {"/v1/images/generations", "/v1/images/edits", "/v1/models", "/health"} <= set(described["paths"])
    examples = described["paths"]["/v1/images/generations"]["post"]["requestBody"]["content"]["application/json"]
    for example in examples["examples"].values():
        assert post(endpoint, **example["value"]).status_code == 200
