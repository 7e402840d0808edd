"""Uploaded images and masks of an edit, read for a model that returns their corners; finished images as files."""

import io

import numpy as np
import pytest
from fake_pipe import FakePipe
from PIL import Image
from web import encode

from emage.serving.image_codec import encode_image, read_edit
from emage.serving.request import Format, GenerationRequest, RequestError

COLOUR = (1, 2, 3)
IMAGE = Image.new("RGB", (24, 16), COLOUR)
BLACK_TO_WHITE = (COLOUR, 0, 255)  # the image, the mask's first corner, its last


def mask_with_corner(mode: str, background: object, corner: object) -> Image.Image:
    mask = Image.new(mode, IMAGE.size, background)  # type: ignore[arg-type]
    mask.putpixel((23, 0), corner)  # type: ignore[arg-type]
    return mask


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(mask_with_corner("RGBA", (255, 255, 255, 255), (0, 0, 0, 0)), id="transparent"),
        pytest.param(mask_with_corner("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)), id="opaque, white"),
        pytest.param(mask_with_corner("L", 0, 255), id="grey"),
    ],
)
def test_a_mask_marks_by_transparency_or_else_by_white(mask: Image.Image) -> None:
    assert read_edit(FakePipe(), GenerationRequest("a", image=encode(IMAGE), mask=encode(mask))) == BLACK_TO_WHITE


def test_without_a_mask_the_transparent_part_of_the_image_is_marked() -> None:
    image = mask_with_corner("RGBA", (*COLOUR, 255), (0, 0, 0, 0))
    assert read_edit(FakePipe(), GenerationRequest("a", image=encode(image))) == BLACK_TO_WHITE


def test_a_16_bit_image_and_mask_are_read_as_8_bit_ones() -> None:
    image = Image.fromarray(np.full((16, 24), 0x4000, np.uint16))
    mask = np.zeros((16, 24), np.uint16)
    mask[0, 23] = 0xFFFF
    request = GenerationRequest("a", image=encode(image), mask=encode(Image.fromarray(mask)))
    assert read_edit(FakePipe(), request) == ((0x40, 0x40, 0x40), 0, 255)


@pytest.mark.parametrize(
    ("image", "mask", "code", "message"),
    [
        (encode(IMAGE), None, "missing_required_parameter", "mask: it is missing"),
        (encode(IMAGE), encode(Image.new("L", (8, 8))), "invalid_value", "mask: the mask has another size"),
        (b"GIF89a", None, "invalid_image", "image: it is not an image"),
        (encode(IMAGE), encode(IMAGE)[:50], "invalid_image", "mask: it"),
    ],
)
def test_an_unusable_upload_is_rejected(image: bytes, mask: bytes | None, code: str, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_edit(FakePipe(), GenerationRequest("a", image=image, mask=mask))
    assert (caught.value.code, caught.value.param) == (code, message.partition(":")[0])
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(("format", "name"), [("png", "PNG"), ("jpeg", "JPEG")])
def test_a_finished_image_has_the_requested_format(format: Format, name: str) -> None:
    assert Image.open(io.BytesIO(encode_image(IMAGE, format))).format == name
