"""Files whose image is whole, with much or broken content that no pixel needs: each must decode to the same pixels."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from web import encode

from emage.data.images import decode_image, file_structure
from emage.data.images.decode_image import ImageError

SCAN, END = b"\xff\xda", b"\xff\xd9"


def picture() -> Image.Image:
    y, x = np.mgrid[0:80, 0:96]
    return Image.fromarray(np.stack([x * 2, y * 3, x + y], -1).astype(np.uint8))


JPEG, PNG = encode(picture(), "JPEG", quality=95), encode(picture())


def pixels(data: bytes) -> np.ndarray:
    return decode_image.decode_square(data, 32, min_size=1, max_pixels=10**6)


def chunk(name: bytes, body: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(name + body) if crc is None else crc
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", crc)


def segment(code: int, body: bytes) -> bytes:
    return bytes([0xFF, code]) + struct.pack(">H", len(body) + 2) + body


LONG_TEXT = b"prompt\0\0" + zlib.compress(b"steps: 20, " * 300_000)  # above Pillow's limit for texts
ODD_CHUNKS = {
    "a large colour profile": chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(3_000_000))),
    "a profile of another compression": chunk(b"iCCP", b"name\0\7" + zlib.compress(b"x")),
    "a profile that is no zlib": chunk(b"iCCP", b"name\0\0garbage"),
    "a long compressed text": chunk(b"zTXt", LONG_TEXT),
    "a long international text": chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"steps " * 500_000)),
    "very many texts": chunk(b"tEXt", b"a\0" + b"b" * 900_000) * 80,
    "a text with a wrong checksum": chunk(b"tEXt", b"a\0b", crc=1),
    "a short gamma": chunk(b"gAMA", b"\0"),
    "a short resolution": chunk(b"pHYs", b"\0\0"),
    "an empty time": chunk(b"tIME", b""),
    "a transparency of the wrong length": chunk(b"tRNS", b"\0"),
    "a transparency with a wrong checksum": chunk(b"tRNS", bytes(6), crc=1),
    "EXIF with a wrong checksum": chunk(b"eXIf", b"MM\0*", crc=1),
    "EXIF that is none": chunk(b"eXIf", b"garbage"),
    "an animation of no frames": chunk(b"acTL", bytes(8)),
    "an unknown private chunk": chunk(b"prVt", bytes(5)),
}


@pytest.mark.parametrize("name", ODD_CHUNKS)
def test_a_png_decodes_with_any_ancillary_chunk(name: str):
    odd = ODD_CHUNKS[name]
    for data in (PNG[:33] + odd + PNG[33:], PNG[:-12] + odd + PNG[-12:], PNG + odd):
        assert np.array_equal(pixels(data), pixels(PNG))


def test_a_png_decodes_without_its_end_and_with_a_broken_chunk_there():
    for end in (b"", b"\0\0", b"\xff\xff\xff\xfftEXt", b"\0\0\0\1!!!!x1234", PNG[-12:] + b"a film"):
        assert np.array_equal(pixels(PNG[:-12] + end), pixels(PNG))


def test_a_png_that_ends_in_its_pixels_is_truncated():
    noise = encode(Image.effect_noise((200, 200), 80))
    for size in (len(noise) // 2, len(noise) - 30):
        with pytest.raises(ImageError, match="truncated"):
            pixels(noise[:size])


def test_transparency_and_orientation_of_a_png_stay():
    palette = picture().quantize(8)
    palette.info["transparency"] = palette.getpixel((40, 40))
    image = decode_image.open_upload(encode(palette), max_pixels=10**6)
    assert image.mode == "RGBA" and image.getpixel((40, 40))[3] == 0
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image.open_upload(encode(picture(), exif=exif), max_pixels=10**6).size == (80, 96)


ODD_SEGMENTS = {
    "a preview of many scans": segment(0xE2, b"preview" + SCAN * 5_000),
    "a comment of many scans": segment(0xFE, SCAN * 5_000),
    "an end inside a comment": segment(0xFE, END),
    "a profile of no bytes": segment(0xE2, b"ICC_PROFILE\0"),
    "an index of images that is none": segment(0xE2, b"MPF\0garbage"),
    "an index without content": segment(0xE2, b"MPF\0"),
    "a short JFIF header": segment(0xE0, b"JFIF\0"),
    "a short colour header": segment(0xEE, b"Adobe"),
    "a broken resource block": segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
    "EXIF that is none": segment(0xE1, b"Exif\0\0garbage"),
}


@pytest.mark.parametrize("name", ODD_SEGMENTS)
def test_a_jpeg_decodes_with_any_segment_in_front_of_the_image(name: str):
    assert np.array_equal(pixels(JPEG[:2] + ODD_SEGMENTS[name] + JPEG[2:]), pixels(JPEG))
    assert np.array_equal(pixels(JPEG[:20] + ODD_SEGMENTS[name] + JPEG[20:]), pixels(JPEG))


def test_a_jpeg_decodes_with_anything_behind_the_image():
    film = np.random.default_rng(0).integers(0, 256, 20_000_000, np.uint8).tobytes()
    assert film.count(SCAN) > decode_image.MAX_SCANS
    for tail in (film, SCAN * 1_000, JPEG * 200):
        assert np.array_equal(pixels(JPEG + tail), pixels(JPEG))


def test_scans_are_those_of_the_first_image():
    progressive = encode(picture(), "JPEG", progressive=True)
    scans = progressive.count(SCAN)
    assert 5 < scans < 20
    start = progressive.rindex(SCAN)
    more = progressive[:-2] + progressive[start:-2] * 30 + END
    for data in (more, more + SCAN * 500, more[:2] + segment(0xE2, SCAN * 500) + more[2:]):
        assert file_structure.count_jpeg_scans(data, most=scans + 29) == scans + 30
        assert file_structure.count_jpeg_scans(data, most=scans + 30) == scans + 30
    fill = more.replace(SCAN, b"\xff" * 300 + SCAN)
    assert file_structure.count_jpeg_scans(fill + SCAN * 500, most=100) == scans + 30


def test_many_scans_are_found_behind_fill_bytes_and_between_segments():
    progressive = encode(picture(), "JPEG", progressive=True)
    scan = segment(0xFE, b"x") + b"\xff\xff" + progressive[progressive.rindex(SCAN) : -2]
    with pytest.raises(ImageError, match="too_many_scans"):
        pixels(progressive[:-2] + scan * 200 + END)


def test_colours_of_jpegs_stay():
    for mode in ("CMYK", "L"):
        flat = Image.new("RGB", (64, 64), (200, 100, 50)).convert(mode)
        shown = np.array(flat.convert("RGB").getpixel((0, 0)))
        assert np.abs(pixels(encode(flat, "JPEG", quality=95)).astype(int) - shown).max() < 6
    red = Image.new("RGB", (64, 64), (250, 10, 10))
    kept_as_rgb = encode(red, "JPEG", keep_rgb=True, quality=95)
    assert np.abs(pixels(kept_as_rgb).astype(int) - (250, 10, 10)).max() < 6
