"""Invalid forms and files of an edit: each is rejected, and the next request gets its image."""

import psutil
import pytest
from hostile import EDITS, GOOD, Answer, bomb, form, is_rejected, is_served, post
from PIL import Image
from web import encode


def white(width: int, height: int, mode: str = "RGB") -> bytes:
    return encode(Image.new(mode, (width, height), "white"))


PROMPT = ('; name="prompt"', b"a red square")
IMAGE = ('; name="image"; filename="a.png"', white(64, 64))
MASK = ('; name="mask"; filename="b.png"', white(64, 64, mode="L"))


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
    "half an image": form(PROMPT, file("image", white(640, 640)[:-200]), MASK),
    "a mask of another size": form(PROMPT, IMAGE, file("mask", white(32, 64, mode="L"))),
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


def upload(url: str, body: bytes) -> Answer:
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
        parts = {"image": IMAGE, "mask": MASK, part: file(part, bomb(30_000))}
        answer = upload(endpoint, form(PROMPT, *parts.values()))
        is_rejected(answer, 400, 413)
        assert answer.error["param"] == part
    assert psutil.Process().memory_info().rss - before < 300e6  # the endpoint is in this process; decoded: 900 MB
    is_served(endpoint)
