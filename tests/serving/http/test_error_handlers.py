"""Errors of the HTTP API: invalid requests, failures of the model, overload."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from api_requests import edit, events, post
from fake_pipe import FakePipe
from in_process import serving
from PIL import Image
from web import encode

from emage.serving.http.app import Options, make_app
from emage.serving.service import QueueLimits, Service


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": "  "}, "prompt", "invalid_value"),
        ({"prompt": "x" * 32_001}, "prompt", "invalid_value"),
        ({"prompt": 7}, "prompt", "invalid_value"),
        ({"prompt": "a", "n": 0}, "n", "invalid_value"),
        ({"prompt": "a", "n": 11}, "n", "invalid_value"),
        ({"prompt": "a", "n": "2"}, "n", "invalid_value"),
        ({"prompt": "a", "size": "1024x1024"}, "size", "invalid_value"),
        ({"prompt": "a", "response_format": "file"}, "response_format", "invalid_value"),
        ({"prompt": "a", "seed": -2}, "seed", "invalid_value"),
        ({"prompt": "a", "steps": 0}, "steps", "invalid_value"),
        ({"prompt": "a", "schedule": "sine"}, "schedule", "invalid_value"),
        ({"prompt": "a", "stepz": 4}, "stepz", "unknown_parameter"),
        ({"prompt": "a", "stream": True, "steps": 0}, "steps", "invalid_value"),
    ],
)
def test_an_invalid_request_is_explained(url: str, body: dict[str, Any], param: str, code: str) -> None:
    answer = post(url, **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert param in error["message"] and "\n" not in error["message"]


def test_an_invalid_edit_is_explained(url: str) -> None:
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
    answer = httpx.post(f"{url}/v1/images/edits", content=b"a", headers={"Content-Type": "text/plain"})
    assert answer.json()["error"]["code"] == "invalid_form"


def test_all_errors_have_the_form_of_the_api(url: str) -> None:
    unreadable = httpx.post(f"{url}/v1/images/generations", content=b"{", headers={"Content-Type": "application/json"})
    answers = {
        (400, "invalid_json"): unreadable,
        (404, "model_not_found"): post(url, prompt="a", model="other"),
        (404, "not_found"): httpx.get(f"{url}/v2"),
        (405, "method_not_allowed"): httpx.get(f"{url}/v1/images/generations"),
        (413, "request_too_large"): post(url, prompt="a", user="x" * 900_000),
        (500, "drawing_failed"): post(url, prompt="fails"),
        (408, "timeout"): post(url, prompt="slow", steps=90),
    }
    for (status, code), answer in answers.items():
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert "Traceback" not in answer.text and "CUDA" not in answer.text
    assert post(url, prompt="a", steps=4).status_code == 200


def test_an_error_in_a_stream_is_its_last_event(url: str) -> None:
    late = events(post(url, prompt="slow", steps=90, stream=True).text)
    assert late[0][0] == "image_generation.partial_image"
    assert late[-1][0] == "error" and late[-1][1]["error"]["code"] == "timeout"
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.APIError, match=r"no image within 1\.5 s"):
        list(client.images.generate(prompt="slow", stream=True, extra_body={"steps": 90}))


def test_overload_is_rejected_at_once() -> None:
    limits = QueueLimits(max_queued=16)
    with serving(lambda: make_app(Service(FakePipe(), limits), Options())) as url, ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda seed: post(url, prompt="busy", seed=seed), range(60)))
    rejected = [answer for answer in answers if answer.status_code != 200]
    finished = [answer for answer in answers if answer.status_code == 200]
    assert len(finished) >= 24 and len(rejected) >= 10
    for answer in rejected:
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
        assert int(answer.headers["Retry-After"]) >= 1


def test_a_model_that_broke_is_not_ready() -> None:
    with serving(lambda: make_app(Service(FakePipe(), QueueLimits()), Options())) as url:
        assert httpx.get(f"{url}/health").json() == {"status": "ok"}
        assert post(url, prompt="breaks").status_code == 503
        for answer in (httpx.get(f"{url}/health"), httpx.get(f"{url}/v1/models"), post(url, prompt="a")):
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "model_broken"
            assert answer.headers["Retry-After"]
