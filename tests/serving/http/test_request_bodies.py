"""Property: whatever a request's body is, the answer has a status of the API and, if it is not 200, its error form."""

import asyncio
import base64
import json
import string
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fake_pipe import FakePipe
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from web import encode

from emage.serving.error_codes import ERROR_CODES, error_type
from emage.serving.http.app import Options, make_app
from emage.serving.http.parameters.schema import ImageRequest
from emage.serving.service import QueueLimits, Service

NAMES = list(ImageRequest.model_fields)
GOOD_JSON = json.dumps({"prompt": "a cup", "seed": 7, "steps": 2, "n": 2}).encode()
KINDS = ("application/json", "APPLICATION/JSON;charset=x", "application/json", "text/plain", "application/", "")
CODINGS = (None, None, None, "gzip", "identity", "")

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 9),
    st.integers(),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=20),
    st.sampled_from(["png", "halton", "likelihood", "auto", "emage", "", "1_0", "\ud800", "\0"]),
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
)
names = st.one_of(st.sampled_from(NAMES), st.text(max_size=12))
prompts = st.one_of(st.just("a cup"), values)
objects = st.builds(
    lambda prompt, rest: {"prompt": prompt, **rest}, prompts, st.dictionaries(names, values, max_size=4)
)


@st.composite
def mutated(draw: st.DrawFn, data: bytes) -> bytes:
    """Bytes of which some are replaced, removed or inserted."""
    for _ in range(draw(st.integers(0, 3))):
        at, length = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        data = data[:at] + draw(st.binary(max_size=6)) + data[at + length :]
    return data


def image_file(mode: str, size: tuple[int, int] = (24, 16)) -> bytes:
    return encode(Image.new(mode, size), "PNG")


PARTS = st.tuples(
    st.one_of(st.sampled_from([*NAMES, "image", "mask", "image[]", "prompt"]), st.text(string.printable, max_size=8)),
    st.sampled_from([None, "a.png", "", "\u00fc.png"]),
    st.one_of(
        st.sampled_from([b"a cup", b"", b"2", b"1_0", b"true", image_file("RGBA"), image_file("RGB"), image_file("L")]),
        st.binary(max_size=30),
        mutated(image_file("RGBA")),
    ),
)


def form(parts: list[tuple[str, str | None, bytes]]) -> bytes:
    """A form with these parts: name, file name, content."""
    lines = []
    for name, file, content in parts:
        about = f'form-data; name="{name}"' + (f'; filename="{file}"' if file is not None else "")
        lines.append(b"--b\r\nContent-Disposition: " + about.encode() + b"\r\n\r\n" + content + b"\r\n")
    return b"".join([*lines, b"--b--\r\n"])


DATA_URL = f"data:image/png;base64,{base64.b64encode(image_file('RGBA')).decode()}"
GOOD_FORM = form([("prompt", None, b"a cup"), ("steps", None, b"2"), ("image", "a.png", image_file("RGBA"))])


class Endpoint:
    """The application in an event loop of this thread."""

    def __init__(self) -> None:
        self.runner = asyncio.Runner()
        self.app: Any = self.runner.run(self._make())

    async def _make(self) -> Any:
        return make_app(Service(FakePipe(), QueueLimits()), Options(timeout_s=20.0))

    def post(self, path: str, body: bytes, kind: str, coding: str | None = None) -> httpx.Response:
        headers = {"Content-Type": kind, **({"Content-Encoding": coding} if coding is not None else {})}

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.post(path, content=body, headers=headers)

        return self.runner.run(send())


@pytest.fixture(scope="module")
def app() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    yield endpoint
    endpoint.runner.close()


def check(answer: httpx.Response) -> None:
    """Assert an image, a stream, or an error that the documents list, with its status and type, in one line."""
    if answer.status_code == 200:
        is_stream = answer.headers["content-type"].startswith("text/event-stream")
        assert "event: " in answer.text if is_stream else answer.json()["data"]
        return
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    code = ERROR_CODES[error["code"]]
    assert (answer.status_code, error["type"]) == (code.status, error_type(code.status))
    assert answer.status_code < 500, error
    assert error["message"] and len(error["message"]) < 1_000 and "\n" not in error["message"]
    for word in ("Traceback", "Input should", "pydantic", "  File "):
        assert word not in error["message"]


@given(body=objects, kind=st.sampled_from(KINDS[:3]), coding=st.sampled_from(CODINGS))
@example({"prompt": "a cup", "n": 10**400}, "application/json", None)
@example({"prompt": "a \ud800"}, "application/json", None)
@example({"prompt": "a cup", "": 1}, "application/json", None)
def test_any_object_is_answered(app: Endpoint, body: dict[str, Any], kind: str, coding: str | None) -> None:
    check(app.post("/v1/images/generations", json.dumps(body).encode("utf-8", "replace"), kind, coding))


references = st.fixed_dictionaries({}, optional={"image_url": st.one_of(st.just(DATA_URL), values), "file_id": values})
edits = st.builds(
    lambda images, mask, rest: {"prompt": "a cup", **rest, "images": images, "mask": mask},
    st.one_of(st.lists(references, max_size=2), values),
    st.one_of(st.none(), references, values),
    st.dictionaries(names, values, max_size=2),
)


@given(body=edits)
@example({"prompt": "a cup", "images": [{"image_url": DATA_URL}], "mask": {"image_url": "data:,"}})
def test_any_edit_in_json_is_answered(app: Endpoint, body: dict[str, Any]) -> None:
    check(app.post("/v1/images/edits", json.dumps(body).encode("utf-8", "replace"), "application/json"))


@given(
    body=st.one_of(mutated(GOOD_JSON), st.binary(max_size=60), values.map(lambda value: json.dumps(value).encode())),
    kind=st.sampled_from(KINDS),
)
@example(b"[" * 90_000, "application/json")
@example(b'{"prompt": ' * 8_000, "application/json")
def test_any_bytes_are_answered(app: Endpoint, body: bytes, kind: str) -> None:
    check(app.post("/v1/images/generations", body, kind))


@given(
    body=st.one_of(st.lists(PARTS, max_size=6).map(form), mutated(GOOD_FORM), st.binary(max_size=60)),
    kind=st.sampled_from(["b", "B", '"b"', "", "b; charset=utf-16", "x" * 300]),
)
@example(GOOD_FORM, "b")
def test_any_form_is_answered(app: Endpoint, body: bytes, kind: str) -> None:
    check(app.post("/v1/images/edits", body, f"multipart/form-data; boundary={kind}"))


def test_good_bodies_get_an_image(app: Endpoint) -> None:
    assert app.post("/v1/images/generations", GOOD_JSON, "application/json").status_code == 200
    assert app.post("/v1/images/edits", GOOD_FORM, "multipart/form-data; boundary=b").status_code == 200
