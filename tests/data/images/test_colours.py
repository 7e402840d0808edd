"""Images of every mode in RGB: the grey, colours and transparency that they show."""

import io

import numpy as np
import pytest
from PIL import Image
from web import encode

from emage.data.images import colours, decode_image

RAMP = np.linspace(0, 255, 64 * 64).reshape(64, 64)


def grey(data: bytes) -> np.ndarray:
    """Return the image's grey values; all three channels must be equal."""
    image = np.asarray(decode_image.open_upload(data, max_pixels=10**6).convert("RGB")).astype(int)
    assert (image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all()
    return image[..., 0]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("TIFF", RAMP.astype(np.int32)),
        ("TIFF", (RAMP * 257).astype(np.int32)),
        ("TIFF", (RAMP * 257).astype(np.uint16)),
        ("TIFF", (RAMP * 8_421_504).astype(np.int32)),
        ("TIFF", (RAMP / 255).astype(np.float32)),
        ("TIFF", RAMP.astype(np.float32)),
        ("TIFF", (RAMP * 257).astype(np.float32)),
        ("PNG", (RAMP * 257).astype(np.uint16)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.dtype} up to {value.max():.0f}",
)
def test_grey_of_many_bits_is_the_grey_that_it_shows(kind: str, values: np.ndarray):
    shown = grey(encode(Image.fromarray(values), kind))
    expected = RAMP / 2 if values.max() > 2**30 else RAMP  # integers of 32 bits: half of the range is below zero
    assert np.abs(shown - expected).max() <= 1


def test_values_that_are_no_grey_are_black_or_white_and_leave_the_others():
    values = (RAMP / 255).astype(np.float32)
    values[0, :4] = np.nan, np.inf, -np.inf, -3
    assert np.abs(grey(encode(Image.fromarray(values), "TIFF"))[1:] - RAMP[1:]).max() <= 1
    assert grey(encode(Image.fromarray(np.full((64, 64), np.nan, np.float32)), "TIFF")).max() == 0


def half(mode: str, transparent: object, opaque: object) -> Image.Image:
    """Return an image of 64x64 whose left half is transparent."""
    image = Image.new(mode, (64, 64), opaque)  # type: ignore[arg-type]
    image.paste(transparent, (0, 0, 32, 64))  # type: ignore[arg-type]
    return image


def indexed(see_through: bytes | int) -> bytes:
    image = half("P", 0, 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    return encode(image, transparency=see_through)


SEE_THROUGH = {
    "RGBA": encode(half("RGBA", (90, 90, 90, 0), (200, 100, 50, 255))),
    "LA": encode(half("LA", (90, 0), (130, 255))),
    "a palette with alpha": indexed(b"\0\xff"),
    "a palette with a transparent entry": indexed(0),
    "RGB with a transparent colour": encode(half("RGB", (1, 2, 3), (200, 100, 50)), transparency=(1, 2, 3)),
    "grey with a transparent value": encode(half("L", 7, 130), transparency=7),
    "black and white with transparent black": encode(half("1", 0, 1), transparency=0),
    "16-bit grey with a transparent value": encode(
        Image.fromarray(np.repeat([[500, 33_000]], 32, 1).repeat(64, 0).astype(np.uint16)), transparency=500
    ),
    "WebP": encode(half("RGBA", (90, 90, 90, 0), (200, 100, 50, 255)), "WEBP", lossless=True),
    "GIF": encode(half("RGBA", (90, 90, 90, 0), (200, 100, 50, 255)), "GIF"),
    "AVIF": encode(half("RGBA", (90, 90, 90, 0), (200, 100, 50, 255)), "AVIF", quality=100),
    "TIFF": encode(half("RGBA", (90, 90, 90, 0), (200, 100, 50, 255)), "TIFF"),
}


@pytest.mark.parametrize("name", SEE_THROUGH)
def test_transparency_of_every_kind_is_seen_and_becomes_white(name: str):
    image = decode_image.open_upload(SEE_THROUGH[name], max_pixels=10**6)
    assert image.mode == "RGBA"
    assert (image.getpixel((5, 32))[3], image.getpixel((60, 32))[3]) == (0, 255)
    white, opaque = (np.asarray(colours.to_rgb(image))[32, x] for x in (5, 60))
    assert (white == 255).all()
    assert (opaque < 255).any() or name.startswith("black")
    shown = decode_image.decode_square(SEE_THROUGH[name], 64, min_size=1, max_pixels=10**6)
    assert (shown[:, :30] >= 250).all()
    assert np.array_equal(np.asarray(colours.to_rgb(Image.open(io.BytesIO(SEE_THROUGH[name])))), colours.to_rgb(image))


OPAQUE = {
    "RGBA": encode(Image.new("RGBA", (64, 64), (200, 100, 50, 255))),
    "LA": encode(Image.new("LA", (64, 64), (130, 255))),
    "a palette whose transparent entry no pixel has": indexed(b"\xff\xff\0"),
    "RGB whose transparent colour no pixel has": encode(Image.new("RGB", (64, 64)), transparency=(1, 2, 3)),
    "grey whose transparent value no pixel has": encode(Image.new("L", (64, 64)), transparency=7),
    "WebP": encode(Image.new("RGBA", (64, 64), (200, 100, 50, 255)), "WEBP", lossless=True, exact=True),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_an_image_without_a_transparent_pixel_has_no_transparency(name: str):
    assert decode_image.open_upload(OPAQUE[name], max_pixels=10**6).mode == "RGB"


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV", "I", "F"])
def test_white_of_any_mode_of_pillow_is_white(mode: str):
    via = "RGB" if mode in ("CMYK", "YCbCr", "HSV", "RGBX") else "L"
    assert np.asarray(colours.to_rgb(Image.new(via, (8, 8), "white").convert(mode))).min() >= 254


@pytest.mark.parametrize("mode", ["La", "RGBa", "PA"])
def test_transparency_of_rare_modes(mode: str):
    image = half("RGBA", (0, 0, 0, 0), (200, 100, 50, 255)).convert({"La": "LA", "PA": "RGBA"}.get(mode, "RGBA"))
    if mode == "PA":
        image = image.convert("RGB").quantize(2).convert("PA")
        image.putalpha(half("L", 0, 255))
    else:
        image = image.convert(mode)
    assert colours.with_alpha(image).mode == "RGBA"
    assert np.asarray(colours.to_rgb(image))[:, :32].min() == 255
