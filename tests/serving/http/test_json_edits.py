"""Edits whose body is JSON with data URLs, as OpenAI's API has them beside forms."""

import base64
from typing import Any

import httpx
import pytest
from api_requests import colours, edit, events
from PIL import Image
from web import encode

from emage.serving import limits

WHOLE = encode(Image.new("RGBA", (24, 16), (9, 9, 9, 0)), "PNG")  # transparent everywhere: it is its own mask
OPAQUE = encode(Image.new("RGB", (24, 16), "white"), "PNG")


def reference(file: bytes) -> dict[str, str]:
    return {"image_url": f"data:image/png;base64,{base64.b64encode(file).decode()}"}


def send(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/images/edits", json={"prompt": "a", **body}, timeout=30)


def test_it_is_the_edit_of_a_form(url: str) -> None:
    by_form = edit(url, {"image": OPAQUE, "mask": WHOLE}, prompt="a", seed="7")
    assert colours(send(url, images=[reference(OPAQUE)], mask=reference(WHOLE), seed=7)) == colours(by_form)
    assert colours(send(url, images=[reference(WHOLE)], mask=None, markup=None, seed=7, quality="high"))
    streamed = events(send(url, images=[reference(WHOLE)], stream=True, steps=2).text)
    assert [name for name, _ in streamed] == ["image_edit.partial_image", "image_edit.completed"]


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({}, "images", "images is required, a list with one data URL"),
        ({"images": []}, "images", "images is required, a list with one data URL"),
        ({"images": {"image_url": "x"}}, "images", 'images: must be a list, [{"image_url": "data:..."}]'),
        (
            {"images": [reference(WHOLE)] * 3},
            "images",
            "images: 3 images were sent; this model edits one image by one mask: send one image",
        ),
        (
            {"images": [{"image_url": "https://example.org/a.png"}]},
            "images",
            "images: this endpoint fetches nothing from other servers: send image_url as a data URL",
        ),
        (
            {"images": [{"file_id": "file-1"}]},
            "images",
            "images: file_id: this endpoint stores no files; send a data URL",
        ),
        ({"images": ["data:"]}, "images", 'images: must be {"image_url": "data:image/png;base64,..."}'),
        ({"images": [{"image_url": "data:image/png,abc"}]}, "images", "images: its data URL is not base64"),
        ({"images": [{"image_url": "data:;base64,a b"}]}, "images", "images: its data URL is not base64"),
        ({"images": [reference(WHOLE)], "mask": {"url": "x"}}, "mask", "mask: must be {"),
        ({"images": [reference(b"<html>")]}, "image", "image: it is a web page, not an image"),
        ({"images": [reference(OPAQUE)]}, "mask", "mask: it is missing"),
        ({"images": [reference(WHOLE)], "markup": reference(WHOLE)}, "markup", "markup: this model reads no drawings"),
        ({"images": [reference(WHOLE)], "stepz": 3}, "stepz", "unknown parameter 'stepz'; did you mean steps?"),
    ],
)
def test_what_is_wrong_is_one_line(url: str, body: dict[str, Any], param: str, message: str) -> None:
    answer = send(url, **body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param and answer.json()["error"]["message"].startswith(message)


def test_only_edits_may_be_as_large_as_an_image(endpoint: str) -> None:
    noise = Image.effect_noise((1100, 1100), 100)
    body = {
        "prompt": "a",
        "images": [reference(encode(noise, "PNG"))],
        "mask": reference(encode(noise, "PNG")),
        "steps": 2,
    }
    assert len(str(body)) > 2 * limits.MAX_JSON_BYTES
    assert httpx.post(f"{endpoint}/v1/images/edits", json=body, timeout=60).status_code == 200
    answer = httpx.post(f"{endpoint}/v1/images/generations", json=body, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("piece", [b"[],", b'{"a":1},', b"1,", b"[[[[],"])
def test_a_body_of_many_values_is_rejected_before_it_is_parsed(endpoint: str, piece: bytes) -> None:
    body = b'{"prompt": "a", "images": [' + piece * 2_000_000 + b"1]}"
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{endpoint}/v1/images/edits", content=body[:19_000_000], headers=headers, timeout=60)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "invalid_json") and "100,000 values" in error["message"]


def test_the_longest_prompts_are_no_list_of_values(url: str) -> None:
    commas = "a" + "," * (limits.MAX_PROMPT_CHARACTERS - 1)
    answer = send(url, prompt=commas, negative_prompt=commas, images=[reference(WHOLE)])
    assert answer.status_code == 200
