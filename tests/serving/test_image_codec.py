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
OPAQUE_BLACK, OPAQUE_WHITE = (0, 0, 0, 255), (255, 255, 255, 255)
BLACK_TO_WHITE = (COLOUR, 0, 255)  # the image, the mask's first corner, its last


def mask_with_corner(mode: str, background: object, corner: object) -> Image.Image:
    mask = Image.new(mode, IMAGE.size, background)  # type: ignore[arg-type]
    mask.putpixel((23, 0), corner)  # type: ignore[arg-type]
    return mask


def with_pixel(image: Image.Image, value: object) -> Image.Image:
    """Change one pixel in the middle."""
    image.putpixel((12, 8), value)  # type: ignore[arg-type]
    return image


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(mask_with_corner("RGBA", (255, 255, 255, 255), (0, 0, 0, 0)), id="transparent"),
        pytest.param(mask_with_corner("RGBA", (0, 0, 0, 255), (255, 255, 255, 255)), id="opaque, white"),
        pytest.param(mask_with_corner("L", 0, 255), id="grey"),
        pytest.param(mask_with_corner("LA", (0, 255), (255, 255)), id="opaque grey, white"),
        pytest.param(mask_with_corner("RGBA", (200, 220, 240, 255), (0, 0, 0, 0)), id="a bright image with a hole"),
        pytest.param(with_pixel(mask_with_corner("RGBA", OPAQUE_BLACK, OPAQUE_WHITE), (0, 0, 0, 254)), id="alpha 254"),
        pytest.param(with_pixel(mask_with_corner("RGBA", OPAQUE_BLACK, OPAQUE_WHITE), (0, 0, 0, 0)), id="alpha 0"),
        pytest.param(
            with_pixel(mask_with_corner("RGBA", OPAQUE_BLACK, (255, 255, 255, 254)), (0, 0, 0, 0)),
            id="white, nearly opaque",
        ),
    ],
)
def test_a_mask_marks_by_transparency_or_else_by_white(mask: Image.Image) -> None:
    assert read_edit(FakePipe(), GenerationRequest("a", image=encode(IMAGE), mask=encode(mask))) == BLACK_TO_WHITE


def test_without_a_mask_the_transparent_part_of_the_image_is_marked() -> None:
    image = mask_with_corner("RGBA", (*COLOUR, 255), (0, 0, 0, 0))
    assert read_edit(FakePipe(), GenerationRequest("a", image=encode(image))) == BLACK_TO_WHITE


class WholePipe(FakePipe):
    def prepare_inpainting(self, image: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image]:
        return image, mask


def test_in_a_painted_mask_each_pixel_counts_by_itself() -> None:
    mask = with_pixel(mask_with_corner("RGBA", OPAQUE_BLACK, OPAQUE_WHITE), (0, 0, 0, 0))
    _, marked = read_edit(WholePipe(), GenerationRequest("a", image=encode(IMAGE), mask=encode(mask)))
    assert np.argwhere(np.asarray(marked) > 127).tolist() == [[0, 23], [8, 12]]


def indexed(**options: object) -> bytes:
    return encode(IMAGE.quantize(2), "PNG", **options)


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(encode(IMAGE.convert("RGBA")), id="RGBA"),
        pytest.param(encode(IMAGE.convert("LA")), id="LA"),
        pytest.param(indexed(transparency=b"\xff\xff\0"), id="a transparent palette entry that no pixel has"),
        pytest.param(encode(IMAGE, transparency=(9, 9, 9)), id="a transparent colour that no pixel has"),
        pytest.param(encode(IMAGE.convert("RGBA"), "WEBP", lossless=True, exact=True), id="WebP"),
        pytest.param(encode(IMAGE.convert("RGBA"), "TIFF"), id="TIFF"),
        pytest.param(encode(Image.new("RGBA", (24, 16), (250, 250, 250, 255))), id="bright"),
    ],
)
def test_an_opaque_image_needs_a_mask_whatever_its_mode(image: bytes) -> None:
    with pytest.raises(RequestError, match="mask: it is missing, and the image has no transparent part") as caught:
        read_edit(FakePipe(), GenerationRequest("a", image=image))
    assert caught.value.code == "missing_required_parameter"


@pytest.mark.parametrize("hidden", [(0, 0, 0, 0), (90, 200, 10, 0)])
def test_a_transparent_background_is_white_not_the_colour_that_it_hides(hidden: tuple[int, ...]) -> None:
    image = Image.new("RGBA", IMAGE.size, hidden)
    image.putpixel((23, 15), (*COLOUR, 255))
    request = GenerationRequest("a", image=encode(image), mask=encode(mask_with_corner("L", 0, 255)))
    shown, _ = read_edit(WholePipe(), request)
    assert (shown.mode, shown.getpixel((0, 0)), shown.getpixel((23, 15))) == ("RGB", (255, 255, 255), COLOUR)


@pytest.mark.parametrize("values", [np.full((16, 24), 0.5, np.float32), np.full((16, 24), 128, np.int32)])
def test_grey_of_floats_and_of_32_bits_is_read_as_8_bit_grey(values: np.ndarray) -> None:
    request = GenerationRequest(
        "a", image=encode(Image.fromarray(values), "TIFF"), mask=encode(mask_with_corner("L", 0, 255))
    )
    assert read_edit(FakePipe(), request) == ((128, 128, 128), 0, 255)


def test_avif_and_a_phones_heic_are_read() -> None:
    pytest.importorskip("pillow_heif").register_heif_opener()
    for kind in ("AVIF", "HEIF"):
        request = GenerationRequest(
            "a", image=encode(IMAGE, kind, quality=100), mask=encode(mask_with_corner("L", 0, 255))
        )
        shown, _ = read_edit(WholePipe(), request)
        assert np.abs(np.asarray(shown).astype(int) - COLOUR).max() < 8


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
        (b"GIF89a", None, "invalid_image", "image: it is damaged and cannot be decoded"),
        (b"no image", None, "invalid_image", "image: it is not an image of a known format (JPEG, PNG, WebP"),
        (b"<!doctype html>", None, "invalid_image", "image: it is a web page, not an image"),
        (b"<svg/>", None, "invalid_image", "image: it is an SVG drawing, which is not decoded; send JPEG, PNG"),
        (encode(IMAGE, "JPEG2000"), None, "invalid_image", "image: it is a JPEG 2000 image, which is not decoded"),
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
