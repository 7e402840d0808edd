"""Invalid bodies, values and HTTP: each is rejected or disconnected, and the next request gets its image."""

import json

import pytest
from hostile import GOOD, head, is_rejected, is_served, post, send

# --- Bodies that are no request ---------------------------------------------------------------------------------------

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
EMPTY = {(name, '""') for name in WORDS if name != "prompt"}  # not given
VALID = {("prompt", '"x"'), ("prompt", '"\\u0000"'), ("seed", "-1"), *EMPTY}


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


# --- Invalid HTTP -----------------------------------------------------------------------------------------------------

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
    answer = send(endpoint, INVALID_HTTP[name], finish=True)
    assert answer.status is None or answer.status < 500, answer
    if answer.status is not None and answer.status >= 400:
        assert answer.error["message"]  # in the API's form
    assert b"root:" not in answer.body
    is_served(endpoint)
