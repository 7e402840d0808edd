"""Hostile requests: each is rejected in the API's form or disconnected, and the next request gets its image.

Also requests that schemathesis generates from the endpoint's own OpenAPI description.
"""

import base64
import io
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import hostile
import hypothesis
import psutil
import pytest
import schemathesis
from hostile import EDITS, form, head, post, send
from in_process import serving
from PIL import Image
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from emage.inference.pipeline import Emage
from emage.serving.http.app import Options, make_app
from emage.serving.http.auth import AccessOptions
from emage.serving.service import QueueLimits, Service

GOOD = json.dumps({"prompt": "a red square", "seed": 7, "steps": 2}).encode()
AT_ONCE_S = 5.0  # generous for a busy machine; a server that waits for the client takes longer
PATIENCE_S = 1.5  # for a body, here


@pytest.fixture
def patient(demo_pipe: Emage) -> Iterator[str]:
    """An endpoint that waits for a body no longer than PATIENCE_S."""
    options = Options(timeout_s=30.0, access=AccessOptions(body_timeout_s=PATIENCE_S))
    with serving(lambda: make_app(Service(demo_pipe, QueueLimits()), options)) as url:
        yield url


def is_served(url: str) -> None:
    """Assert that a normal request gets its image soon."""
    answer = post(url, GOOD)
    assert answer.status == 200, answer
    image = Image.open(io.BytesIO(base64.b64decode(json.loads(answer.body)["data"][0]["b64_json"])))
    assert image.size == (64, 64)
    assert answer.seconds < AT_ONCE_S


def is_rejected(answer: hostile.Answer, *statuses: int) -> None:
    """Assert a rejection in the API's form, soon, with one of these statuses (any 4xx if none is given)."""
    assert answer.status is not None, "disconnected"
    assert answer.status in (statuses or range(400, 500)), answer
    assert answer.error["message"]
    assert answer.seconds < AT_ONCE_S


# --- Complete bodies --------------------------------------------------------------------------------------------

INVALID_BODIES = {
    "nothing": b"",
    "half": b'{"prompt": "a',
    "not an object": b"[1, 2]",
    "a word": b"null",
    "nested a hundred thousand deep": b"[" * 100_000,
    "nested in a field": b'{"prompt": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "objects, nested": b'{"prompt": ' * 50_000,
    "invalid UTF-8": b'{"prompt": "\xff\xfe\xc3\x28"}',
    "UTF-16": '{"prompt": "a", "steps": 0}'.encode("utf-16"),
    "zero bytes": bytes(1000),
    "half a surrogate": b'{"prompt": "\\ud800"}',
    "a number of 5,000 digits": b'{"prompt": "a", "seed": ' + b"9" * 5_000 + b"}",
    "a key of a million letters": b'{"prompt": "a", "' + b"x" * 1_000_000 + b'": 1}',
    "a hundred thousand keys": json.dumps({"prompt": "a", **{f"key {i}": i for i in range(100_000)}}).encode(),
    "a prompt of 10 MB": json.dumps({"prompt": "x" * 10_000_000}).encode(),
    "a prompt of 30 MB": json.dumps({"prompt": "x" * 30_000_000}).encode(),
    "a list of a million prompts": json.dumps({"prompt": ["a"] * 1_000_000}).encode(),
}


@pytest.mark.parametrize("name", INVALID_BODIES)
def test_an_invalid_body_is_rejected(endpoint: str, name: str) -> None:
    answer = post(endpoint, INVALID_BODIES[name])
    if answer.status is not None or len(INVALID_BODIES[name]) < 20_000_000:  # disconnected while it still sent
        is_rejected(answer, 400, 413, 422)
    is_served(endpoint)


SETTINGS = ("temperature", "top_p", "gumbel", "guidance", "remask")
WHOLE = ("seed", "steps", "n", "top_k", "candidates", "partial_images")
WORDS = ("prompt", "model", "size", "response_format", "output_format", "rank", "schedule", "order", "revise")
ODD = ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, "-1", "true", '"1"', "[]", "{}")
INVALID = [
    *((name, value) for name in SETTINGS for value in ODD),
    *((name, value) for name in WHOLE for value in (*ODD, "1.5", "0.1e1")),
    *((name, value) for name in WORDS for value in ("1", "true", "[]", "{}", "NaN", '""', '"\\u0000"', '"x"')),
    *((name, value) for name in ("stream", "guidance_schedule") for value in ('"yes"', "2", "[]", "NaN")),
]
VALID = {("prompt", '"x"'), ("prompt", '"\\u0000"')}


def test_settings_of_the_wrong_type_are_rejected_by_name(endpoint: str) -> None:
    for name, value in INVALID:
        fields = {"prompt": '"a"', "stream": "false", name: value}
        body = "{" + ", ".join(f'"{key}": {text}' for key, text in fields.items()) + "}"
        answer = post(endpoint, body.encode())
        if (name, value) in VALID:
            assert answer.status == 200, (name, value, answer)
            continue
        assert answer.status is not None and 400 <= answer.status < 500, (name, value, answer)
        assert answer.error["param"] in (name, None), (name, value)
    is_served(endpoint)


def test_the_last_of_two_equal_keys_counts(endpoint: str) -> None:
    body = b'{"prompt": "a", "steps": 0, "steps": 2, "seed": "x", "seed": 5}'
    answer = post(endpoint, body)
    assert answer.status == 200 and json.loads(answer.body)["data"][0]["seed"] == 5
    is_rejected(post(endpoint, b'{"prompt": "a", "steps": 2, "steps": 0}'), 400)


@pytest.mark.parametrize(
    "kind", ["text/plain", "application/xml", "multipart/form-data", "", "a/b; charset=\xff", None]
)
def test_another_content_type_is_rejected_or_read_as_json(endpoint: str, kind: str | None) -> None:
    answer = post(endpoint, GOOD, Content_Type=kind)
    if answer.status != 200:
        is_rejected(answer, 400, 415, 422)
    is_served(endpoint)


# --- Invalid HTTP ------------------------------------------------------------------------------------------------

INVALID_HTTP = {
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)),
    "a line without an end": b"GET /" + b"x" * 200_000,
    "no version": b"GET /health\r\n\r\n",
    "a negative length": head(Content_Length=-5) + GOOD,
    "a length in words": head(Content_Length="many") + GOOD,
    "a length of 6,000 digits": head(Content_Length="9" * 6_000) + GOOD,
    "two lengths": head(Content_Length=len(GOOD)).replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n") + GOOD,
    "length and chunks": head(Content_Length=4, Transfer_Encoding="chunked") + b"5\r\nabcde\r\n0\r\n\r\n",
    "invalid chunks": head(Transfer_Encoding="chunked") + b"zz\r\nabc\r\n",
    "a chunk of a negative size": head(Transfer_Encoding="chunked") + b"-1\r\nabc\r\n",
    "a chunk of an immense size": head(Transfer_Encoding="chunked") + b"f" * 40 + b"\r\nabc\r\n",
    "an unknown encoding": head(Transfer_Encoding="gzip, snappy") + GOOD,
    "a hundred thousand headers": head(**{f"X-{i}": i for i in range(100_000)}) + GOOD,
    "a header of a megabyte": head(X_Long="x" * 1_000_000) + GOOD,
    "an invalid host": head(Host="[", Content_Length=len(GOOD)) + GOOD,
    "a host with a wrong port": head(Host="127.0.0.1:port", Content_Length=len(GOOD)) + GOOD,
    "an invalid origin": head(Origin="http://[", Content_Length=len(GOOD)) + GOOD,
    "a path of the file system": head("/page/../../../../etc/passwd", "GET"),
    "a path of the file system, encoded": head("/page/%2e%2e%2f%2e%2e%2fapp.py", "GET"),
    "a path with a zero byte": head("/page/%00", "GET"),
    "a path that is not UTF-8": head("/v1/models/%ff%fe", "GET"),
    "an upgrade": head("/health", "GET", Connection="Upgrade", Upgrade="h2c"),
    "another method": head("/v1/models", "BREW"),
}


@pytest.mark.parametrize("name", INVALID_HTTP)
def test_invalid_http_is_rejected_or_disconnected(endpoint: str, name: str) -> None:
    """Rejections of the HTTP parser itself do not have the API's form."""
    answer = send(endpoint, INVALID_HTTP[name], finish=True)
    assert answer.status is None or answer.status < 500, answer
    assert b"root:" not in answer.body
    is_served(endpoint)


# --- Slow, truncated, many --------------------------------------------------------------------------------------------


def dripping() -> Iterator[bytes]:
    """Yield a request whose body arrives a byte at a time and is never complete."""
    yield head(Content_Length=10_000)
    while True:
        yield b" "


def test_a_slow_body_times_out_and_delays_no_other_request(patient: str) -> None:
    with ThreadPoolExecutor(20) as pool:
        slow = [pool.submit(hostile.drip, patient, dripping(), every=0.2, within=15) for _ in range(20)]
        is_served(patient)
        for answer in (each.result() for each in slow):
            assert answer.status == 408 and answer.error["type"] == "timeout_error", answer
            assert answer.seconds > PATIENCE_S - 0.1
    is_served(patient)


def test_idle_connections_and_half_requests_delay_no_other_request(patient: str) -> None:
    starts = {b"": 200, b"POST ": 50, head(Content_Length=10)[:-2]: 50, head(Content_Length=10) + b"{": 50}
    with ExitStack() as held:
        for data, count in starts.items():
            held.enter_context(hostile.held_open(patient, count, data))
        for _ in range(3):
            is_served(patient)
    is_served(patient)


TRUNCATED = {
    "no body": head(Content_Length=1_000),
    "half a body": head(Content_Length=len(GOOD)) + GOOD[:-1],
    "half a chunk": head(Transfer_Encoding="chunked") + b"ff\r\n{",
    "half a form": head(EDITS, Content_Type="multipart/form-data; boundary=b", Content_Length=10**6) + bytes(10_000),
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_truncated_upload_is_dropped(endpoint: str, name: str) -> None:
    for _ in range(5):
        with hostile.held_open(endpoint, 1, TRUNCATED[name]):
            pass
    answer = send(endpoint, TRUNCATED[name], finish=True)
    assert answer.status is None or 400 <= answer.status < 500, answer
    is_served(endpoint)


def test_a_client_that_never_reads_delays_no_other_request(endpoint: str) -> None:
    many = json.dumps({"prompt": "a", "n": 4, "steps": 8, "stream": True}).encode()
    with hostile.held_open(endpoint, 5, head(Content_Length=len(many)) + many):
        time.sleep(0.2)
        length = {"Content_Length": len(GOOD), "Connection": "close"}
        assert send(endpoint, head(**length) + GOOD, within=30).status == 200  # twenty images are generated before
        is_served(endpoint)
    is_served(endpoint)


# --- Forms ------------------------------------------------------------------------------------------------------------


def image(*size: int, mode: str = "RGB", kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, "white").save(file, kind)
    return file.getvalue()


PROMPT = ('; name="prompt"', b"a red square")
IMAGE = ('; name="image"; filename="a.png"', image(64, 64))
MASK = ('; name="mask"; filename="b.png"', image(64, 64, mode="L"))


def file(name: str, content: bytes) -> tuple[str, bytes]:
    return f'; name="{name}"; filename="{name}.png"', content


FORMS = {
    "no parts": form(),
    "no image": form(PROMPT),
    "no prompt": form(IMAGE, MASK),
    "no mask": form(PROMPT, IMAGE),
    "a part without a name": form(PROMPT, IMAGE, MASK, ("", b"x")),
    "a part without an end": form(PROMPT, IMAGE, MASK, end=False),
    "half a part": form(PROMPT, IMAGE, MASK)[:-40],
    "not a form": GOOD,
    "another boundary": form(PROMPT, IMAGE, MASK, boundary="c"),
    "an image in words": form(PROMPT, ('; name="image"', b"a.png"), MASK),
    "an empty image": form(PROMPT, file("image", b""), MASK),
    "an image file that is not one": form(PROMPT, file("image", b"<svg/>" * 1000), MASK),
    "half an image": form(PROMPT, file("image", image(640, 640)[:-200]), MASK),
    "a mask of another size": form(PROMPT, IMAGE, file("mask", image(32, 64, mode="L"))),
    "a mask file that is not one": form(PROMPT, IMAGE, file("mask", b"\x89PNG\r\n\x1a\n" + bytes(100))),
    "two images": form(PROMPT, IMAGE, IMAGE, MASK),
    "an unknown file": form(PROMPT, IMAGE, MASK, file("more", b"x")),
    "a hundred files": form(PROMPT, IMAGE, MASK, *(file(f"more{i}", b"x") for i in range(100))),
    "ten thousand fields": form(PROMPT, IMAGE, MASK, *((f'; name="f{i}"', b"x") for i in range(10_000))),
    "a field of a megabyte": form(IMAGE, MASK, ('; name="prompt"', b"x" * 1_000_000)),
    "steps in words": form(PROMPT, IMAGE, MASK, ('; name="steps"', b"many")),
    "NaN": form(PROMPT, IMAGE, MASK, ('; name="temperature"', b"nan")),
    "a file of 19 MB": form(PROMPT, file("image", bytes(19_000_000)), MASK),
    "a file of 30 MB": form(PROMPT, file("image", bytes(30_000_000)), MASK),
}


def upload(url: str, body: bytes) -> hostile.Answer:
    return post(url, body, EDITS, Content_Type="multipart/form-data; boundary=b")


def test_a_valid_form_is_answered(endpoint: str) -> None:
    assert upload(endpoint, form(PROMPT, IMAGE, MASK, ('; name="steps"', b"2"))).status == 200


@pytest.mark.parametrize("name", FORMS)
def test_an_invalid_form_is_rejected(endpoint: str, name: str) -> None:
    answer = upload(endpoint, FORMS[name])
    if answer.status is not None or len(FORMS[name]) < 20_000_000:  # disconnected while it still sent
        is_rejected(answer, 400, 413, 415, 422)
    is_served(endpoint)


@pytest.mark.parametrize(
    "kind", ["multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=b"]
)
def test_a_form_without_a_boundary_is_rejected(endpoint: str, kind: str) -> None:
    is_rejected(post(endpoint, form(PROMPT, IMAGE, MASK), EDITS, Content_Type=kind), 400, 415, 422)
    is_served(endpoint)


def test_an_image_that_would_fill_the_memory_is_not_decoded(endpoint: str) -> None:
    before = psutil.Process().memory_info().rss
    for part in ("image", "mask"):
        parts = {"image": IMAGE, "mask": MASK, part: file(part, hostile.bomb(30_000))}
        answer = upload(endpoint, form(PROMPT, *parts.values()))
        is_rejected(answer, 400, 413)
        assert answer.error["param"] == part
    assert psutil.Process().memory_info().rss - before < 300e6  # the endpoint is in this process; decoded: 900 MB
    is_served(endpoint)


# --- Requests generated from the description --------------------------------------------------------------------------


CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
schema = schemathesis.openapi.from_dict(make_app(None, Options()).openapi())  # type: ignore[arg-type]
few = hypothesis.settings(max_examples=hypothesis.settings().max_examples // 5)


@schema.parametrize()
@few
def test_answers_match_the_description(case: schemathesis.Case, endpoint: str) -> None:
    if isinstance(case.body, dict):  # a valid request is generated; 160 images per example would take too long
        case.body |= {key: 2 for key in ("n", "candidates") if case.body.get(key) in range(3, 17)}
    case.call_and_validate(base_url=endpoint, checks=CHECKS)
