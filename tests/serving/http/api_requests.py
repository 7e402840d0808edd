"""Requests to the HTTP API, and what their answers hold."""

import base64
import io
import json
from typing import Any

import httpx
from PIL import Image


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
