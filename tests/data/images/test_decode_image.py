"""Bytes to square images: a quadrant of colours must end where it belongs, and bad bytes get their drop reason."""

import numpy as np
import pytest
from PIL import Image
from web import encode

from emage.data.images import decode_image
from emage.data.images.decode_image import ImageError

RED, GREEN, BLUE, WHITE = (220, 20, 20), (20, 200, 20), (20, 20, 220), (255, 255, 255)


def quadrants(width: int = 96, height: int = 96) -> Image.Image:
    """Return an image of four quadrants: red, green over blue, white."""
    image = Image.new("RGB", (width, height), WHITE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    image.paste(GREEN, (width // 2, 0, width, height // 2))
    image.paste(BLUE, (0, height // 2, width // 2, height))
    return image


def square(data: bytes, size: int = 64, min_size: int = 16, max_pixels: int = 1_000_000) -> np.ndarray:
    """Return the square as (size, size, 3) int."""
    image = decode_image.make_square_jpeg(data, size, min_size=min_size, max_pixels=max_pixels)
    return decode_image.decode_pixels(image.jpeg).astype(int)


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    quarter = pixels.shape[0] // 4
    return [tuple(pixels[y, x]) for y in (quarter, -quarter) for x in (quarter, -quarter)]


def is_near(found: list[tuple[int, ...]], expected: list[tuple[int, int, int]]) -> bool:
    return bool(np.abs(np.subtract(found, expected)).max() < 20)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_formats(kind):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    assert is_near(corners(square(encode(quadrants(), kind))), [RED, GREEN, BLUE, WHITE])


@pytest.mark.parametrize("size", [(96, 96), (300, 100), (100, 300), (64, 64), (1000, 700), (20, 30)])
def test_always_square_and_the_middle_is_kept(size):
    pixels = square(encode(quadrants(*size)))
    assert pixels.shape == (64, 64, 3)
    assert is_near(corners(pixels), [RED, GREEN, BLUE, WHITE])


def recorded_size(data: bytes, size: int = 32) -> tuple[int, int]:
    image = decode_image.make_square_jpeg(data, size, min_size=16, max_pixels=10**7)
    return image.width, image.height


def turned(image: Image.Image, orientation: int, kind: str = "JPEG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(image, kind, exif=exif, quality=95)


@pytest.mark.parametrize("size", [(300, 100), (803, 802), (802, 803), (1001, 1002), (515, 513), (512, 512)])
@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_size_as_downloaded_is_recorded_although_a_jpeg_is_decoded_at_a_fraction_of_it(kind, size):
    data = encode(Image.new("RGB", size), kind)
    assert recorded_size(data) == size


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(643, 641), (641, 643), (320, 240)])
def test_the_size_of_a_turned_image_is_recorded_upright(size, orientation):
    upright = size if orientation < 5 else size[::-1]
    assert recorded_size(turned(Image.new("RGB", size), orientation)) == upright


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize(
    ("orientation", "expected"),
    [
        (2, [GREEN, RED, WHITE, BLUE]),
        (3, [WHITE, BLUE, GREEN, RED]),
        (4, [BLUE, WHITE, RED, GREEN]),
        (5, [RED, BLUE, GREEN, WHITE]),
        (6, [BLUE, RED, WHITE, GREEN]),
        (7, [WHITE, GREEN, BLUE, RED]),
        (8, [GREEN, WHITE, RED, BLUE]),
    ],
)
def test_exif_rotation_is_applied(kind, orientation, expected):
    data = turned(quadrants(128, 96), orientation, kind)
    assert is_near(corners(square(data)), expected)
    assert recorded_size(data) == ((128, 96) if orientation < 5 else (96, 128))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation):
    assert is_near(corners(square(turned(quadrants(), orientation))), [RED, GREEN, BLUE, WHITE])


def test_an_image_with_broken_exif_is_kept():
    data = encode(quadrants(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01garbage")
    assert is_near(corners(square(data)), [RED, GREEN, BLUE, WHITE])


def test_grey_cmyk_palette_and_transparency():
    grey = round(0.299 * 220 + 0.587 * 20 + 0.114 * 20)
    assert is_near(corners(square(encode(quadrants().convert("L"))))[:1], [(grey,) * 3])
    assert is_near(corners(square(encode(quadrants().convert("CMYK"), "JPEG"))), [RED, GREEN, BLUE, WHITE])
    assert is_near(corners(square(encode(quadrants().quantize(8)))), [RED, GREEN, BLUE, WHITE])
    see_through = quadrants().convert("RGBA")
    see_through.paste((0, 0, 0, 0), (0, 0, 48, 48))
    assert is_near(corners(square(encode(see_through))), [WHITE, GREEN, BLUE, WHITE])


def test_downscaling_is_antialiased():
    stripes = np.zeros((512, 512), np.uint8)
    stripes[:, ::2] = 255  # one pixel wide: without antialiasing all black or all white
    pixels = square(encode(Image.fromarray(stripes)))
    assert np.abs(pixels - 128).max() < 20


def test_animations_and_stereo_pairs_are_their_first_image():
    other = Image.new("RGB", (96, 96), "black")
    for kind in ("GIF", "WEBP", "PNG", "MPO"):
        data = encode(quadrants(), kind, save_all=True, append_images=[other])
        assert is_near(corners(square(data)), [RED, GREEN, BLUE, WHITE])


def test_transparency_that_is_cropped_and_resized_has_no_dark_seam():
    image = Image.new("RGBA", (256, 128), (0, 0, 0, 0))
    image.paste((255, 255, 255, 255), (0, 0, 128, 128))  # white on nothing is white on white
    assert square(encode(image), size=32).min() > 250


def bomb(scans: int) -> bytes:
    """Return a small file that makes a decoder decode all its pixels `scans` times."""
    data = encode(Image.new("L", (512, 512)), "JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * scans + b"\xff\xd9"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<html>not found</html>", "web_page"),
        (b"not found", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "format_pdf"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format_svg"),
        (encode(quadrants(), "JPEG2000"), "format_jpeg2000"),
        (encode(quadrants(), "ICO"), "format_ico"),
        (b"\xff\xd8\xff\xe0", "decode_error"),
        (encode(quadrants(400, 400), "JPEG")[:3000], "truncated"),
        (encode(quadrants(15, 200)), "too_small"),
        (encode(Image.new("1", (2000, 2000))), "too_many_pixels"),
        (bomb(200), "too_many_scans"),
    ],
)
def test_bad_bytes(data, reason):
    with pytest.raises(ImageError) as error:
        square(data)
    assert error.value.reason == reason


def test_damaged_png_has_a_drop_reason():
    data = bytearray(encode(Image.effect_noise((200, 200), 80)))
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    with pytest.raises(ImageError) as error:
        square(bytes(data))
    assert error.value.reason in ("decode_error", "truncated")
