"""The routes with a model of one colour: answers, streams, the model's description."""

import itertools
import time
from dataclasses import fields

import httpx
from api_requests import colours, events, opened, post
from fake_pipe import FakePipe, colour

from emage.config import SamplingConfig
from emage.serving.http.parameters.schema import ImageRequest


def test_every_sampling_setting_is_a_parameter() -> None:
    assert {item.name for item in fields(SamplingConfig)} <= set(ImageRequest.model_fields)


def test_the_returned_seed_generates_the_same_image_again(url: str) -> None:
    answer = post(url, prompt="a red bus")
    seed = answer.json()["data"][0]["seed"]
    assert colours(answer) == [colour("a red bus", seed, 4)] == colours(post(url, prompt="a red bus", seed=seed))
    assert post(url, prompt="a red bus").json()["data"][0]["seed"] != seed
    assert not answer.json()["prompt_cut"] and post(url, prompt="a red bus " * 20).json()["prompt_cut"]


def test_an_image_can_be_a_jpeg(url: str) -> None:
    answer = post(url, prompt="a", output_format="jpeg").json()
    assert answer["output_format"] == "jpeg" and opened(answer["data"][0]["b64_json"]).format == "JPEG"


def test_events_have_the_image_index_and_the_step(url: str) -> None:
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


def test_events_arrive_while_the_image_is_generated(url: str) -> None:
    body = {"prompt": "slow", "stream": True, "steps": 4}  # 0.3 s per step
    times = []
    with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=30) as answer:
        for line in answer.iter_lines():
            if line.startswith("event:"):
                times.append(time.monotonic())
    assert len(times) == 4 and all(0.15 < later - sooner < 0.9 for sooner, later in itertools.pairwise(times))


def test_a_client_that_disconnects_cancels_the_generation(url: str, pipe: FakePipe) -> None:
    body = {"prompt": "busy", "stream": True, "steps": 90}
    with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=30) as answer:
        next(answer.iter_lines())
    time.sleep(0.3)
    before = pipe.num_steps_done
    time.sleep(0.5)
    assert pipe.num_steps_done == before


def test_methods_of_the_routes(url: str) -> None:
    for path in ("/", "/health", "/v1/models", "/v1/models/emage", "/docs", "/page/app.js"):
        head = httpx.head(f"{url}{path}")
        assert (head.status_code, head.content) == (200, b""), path
        assert head.headers["Content-Type"] == httpx.get(f"{url}{path}").headers["Content-Type"]
        refused = httpx.post(f"{url}{path}")
        assert refused.status_code == 405 and refused.json()["error"]["code"] == "method_not_allowed"
        assert set(refused.headers["Allow"].split(", ")) == {"GET", "HEAD"}, path
    for path in ("/v1/images/generations", "/v1/images/edits"):
        assert httpx.get(f"{url}{path}").headers["Allow"] == "POST"
