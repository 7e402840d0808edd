"""Bodies of requests: what is a parameter, in JSON and in a form, and which error says what is wrong."""

import gzip
import json
from typing import Any

import httpx
import pytest
from api_requests import post
from PIL import Image
from web import encode

from emage.serving.http.parameters.checks import allowed
from emage.serving.http.parameters.schema import ImageRequest


def sent(url: str, body: bytes, **headers: str) -> tuple[int, str, str]:
    """Return status, code and message of the answer to a body with these headers alone (`_` for `-`)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = httpx.post(f"{url}/v1/images/generations", content=body, headers=named)
    error = answer.json().get("error", {"code": "", "message": ""})
    return answer.status_code, error["code"], error["message"]


def edited(url: str, **form: str) -> httpx.Response:
    image = encode(Image.new("RGBA", (24, 16), (0, 0, 0, 0)), "PNG")
    return httpx.post(f"{url}/v1/images/edits", data={"prompt": "a", **form}, files={"image": image})


GOOD = b'{"prompt": "a"}'


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON", "application/json; charset=utf-8", "application/vnd.api+json"]
)
def test_the_content_type_of_json_in_any_case(url: str, kind: str) -> None:
    assert sent(url, GOOD, Content_Type=kind)[0] == 200
    assert sent(url, b"\xef\xbb\xbf" + GOOD, Content_Type=kind)[0] == 200


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", "multipart/form-data; boundary=b"])
def test_another_content_type_is_named(url: str, kind: str) -> None:
    status, code, message = sent(url, GOOD, Content_Type=kind)
    assert (status, code) == (400, "invalid_json")
    assert message == f"the header Content-Type must be application/json, not '{kind.partition(';')[0]}'"
    assert sent(url, GOOD) == (
        400,
        "invalid_json",
        "the header Content-Type must be application/json, and there is none",
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"prompt": "\xe9"}', "byte 12 is not UTF-8"),
        (json.dumps({"prompt": "a"}).encode("utf-16"), "byte 0 is not UTF-8"),
        (gzip.compress(GOOD, mtime=0), "byte 1 is not UTF-8"),
        (b"[" * 50_000, "it is nested too deeply"),
        (b'{"prompt": "a", "seed": ' + b"7" * 9_000 + b"}", "Exceeds the limit"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN is not JSON"),
        (b'{"prompt": "a"', "Expecting ',' delimiter: line 1 column 15 (char 14)"),
    ],
)
def test_a_body_that_is_not_json(url: str, body: bytes, message: str) -> None:
    status, code, text = sent(url, body, Content_Type="application/json")
    assert (status, code) == (400, "invalid_json") and text.startswith(f"the body is not JSON: {message}")


def test_json_that_is_no_object_and_no_body(url: str) -> None:
    for body in (b"[1]", b'"a"', b"null", b"3"):
        assert sent(url, body, Content_Type="application/json")[1:] == (
            "invalid_json",
            "the body is JSON, but not an object: {...}",
        )
    assert sent(url, b"", Content_Type="application/json")[1] == "missing_required_parameter"


def test_a_packed_body_is_named(url: str) -> None:
    packed = gzip.compress(GOOD)
    status, code, message = sent(url, packed, Content_Type="application/json", Content_Encoding="GZip")
    assert (status, code) == (400, "invalid_request")
    assert message == "the header Content-Encoding is 'gzip': send the body as it is, not packed"
    assert sent(url, GOOD, Content_Type="application/json", Content_Encoding="identity")[0] == 200


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("n", 11, "n: must be a whole number from 1 to 10, not 11"),
        ("n", "two", 'n: must be a whole number from 1 to 10, not "two"'),
        ("n", [1], "n: must be a whole number from 1 to 10, not a list"),
        ("stream", "yes", 'stream: must be true or false, not "yes"'),
        ("output_format", "bmp", 'output_format: must be one of png, jpeg, webp, not "bmp"'),
        ("output_compression", 101, "output_compression: must be a whole number from 0 to 100, not 101"),
        ("seed", -2, "seed: must be a whole number from -1 to 9,007,199,254,740,991, not -2"),
        ("prompt", "x" * 32_001, "prompt: must be text of 1 to 32,000 characters, not one of 32,001 characters"),
        ("prompt", {}, "prompt: must be text of 1 to 32,000 characters, not an object"),
        ("metadata", "team", 'metadata: must be an object, not "team"'),
        ("guidance_scale", "high", 'guidance_scale: must be a number from 0 to 100, not "high"'),
        ("temperature", "hot", 'temperature: must be a number from 0 to 100, not "hot"'),
        ("schedule", "sine\n", 'schedule: must be one of cosine, linear, square, cubic, sqrt, not "sine\\n"'),
        ("true_cfg", 3, "unknown parameter 'true_cfg'"),
        ("num_inference_step", 3, "unknown parameter 'num_inference_step'; did you mean num_inference_steps?"),
        ("sede", 3, "unknown parameter 'sede'; did you mean seed?"),
        ("", 3, "unknown parameter ''"),
    ],
)
def test_a_wrong_parameter_is_explained_in_our_words(url: str, name: str, value: Any, message: str) -> None:
    error = post(url, **{"prompt": "a", name: value}).json()["error"]
    assert (error["message"], error["param"]) == (message, name)


def test_every_parameter_says_what_it_may_be() -> None:
    for name in ImageRequest.model_fields:
        assert allowed(name).startswith(("a whole number", "a number", "one of", "text", "true or false", "an object"))


@pytest.mark.parametrize("nothing", [None, ""])
def test_null_and_empty_are_not_given(url: str, nothing: Any) -> None:
    names = [name for name in ImageRequest.model_fields if name != "prompt"]
    answer = post(url, prompt="a", **dict.fromkeys(names, nothing))
    assert answer.status_code == 200 and answer.json()["warnings"] == []
    assert post(url, prompt="a", no_such_parameter=nothing).status_code == 200
    assert post(url, prompt=None).json()["error"]["code"] == "missing_required_parameter"


@pytest.mark.parametrize("value", ["1_0", "+2", "0x2", "２", "two", "02", "true"])
def test_a_number_in_a_form_is_written_as_in_json(url: str, value: str) -> None:
    error = edited(url, n=value).json()["error"]
    assert error["param"] == "n" and error["message"].startswith("n: must be a whole number from 1 to 10, not ")


def test_an_empty_field_of_a_form_is_not_given(url: str) -> None:
    names = [name for name in ImageRequest.model_fields if name != "prompt"]
    assert edited(url, **dict.fromkeys(names, "")).status_code == 200
    answer = edited(url, prompt="")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "prompt"
    answer = edited(url, n="2", seed="7", stream="false", temperature="1e0", user="1_0", steps="3")
    assert [image["seed"] for image in answer.json()["data"]] == [7, 8]
    assert edited(url, stream="yes").json()["error"]["message"] == 'stream: must be true or false, not "yes"'


def test_a_form_in_any_case_and_packed(url: str) -> None:
    body = b'--B\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n--B--\r\n'
    headers = {"Content-Type": "Multipart/Form-Data; boundary=B"}
    answer = httpx.post(f"{url}/v1/images/edits", content=body, headers=headers)
    assert answer.json()["error"]["message"] == "image is required, as a file"
    headers["Content-Encoding"] = "br"
    answer = httpx.post(f"{url}/v1/images/edits", content=body, headers=headers)
    assert answer.json()["error"]["code"] == "invalid_request"
