"""Property: whatever bytes arrive, an image or a named reason comes back, in bounded time and memory."""

import resource
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from web import encode

from emage.data.images import decode_image
from emage.data.images.decode_image import ImageError
from emage.data.ingest.drop_reasons import explain

MAX_PIXELS, MAX_SECONDS, MAX_MEGABYTES = 500_000, 5.0, 600


def _sources() -> dict[str, bytes]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).resize((96, 64))
    clear = image.copy()
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    exif = Image.Exif()
    exif[0x0112] = 6
    files = {
        "jpeg": encode(image, "JPEG", exif=exif, icc_profile=bytes(200), comment=b"a comment"),
        "progressive jpeg": encode(image, "JPEG", progressive=True),
        "cmyk jpeg": encode(image.convert("CMYK"), "JPEG"),
        "stereo jpeg": encode(image, "MPO", save_all=True, append_images=[image]),
        "png": encode(clear, exif=exif, icc_profile=bytes(200)),
        "palette png": encode(image.quantize(16), transparency=b"\0\x80\xff"),
        "animated png": encode(image, save_all=True, append_images=[image.rotate(90)]),
        "16-bit png": encode(Image.fromarray(rng.integers(0, 65536, (48, 64), np.uint16))),
        "webp": encode(clear, "WEBP", exif=exif),
        "lossless webp": encode(image, "WEBP", lossless=True),
        "gif": encode(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
        "bmp": encode(image, "BMP"),
        "palette bmp": encode(image.quantize(16), "BMP"),
        "tiff": encode(image, "TIFF"),
        "packed tiff": encode(clear, "TIFF", compression="tiff_lzw"),
        "jpeg tiff": encode(image, "TIFF", compression="jpeg"),
        "float tiff": encode(Image.fromarray(rng.random((48, 64), np.float32)), "TIFF"),
        "avif": encode(clear, "AVIF", exif=exif),
    }
    if not decode_image.NOT_INSTALLED:
        files["heic"] = encode(image, "HEIF", exif=exif)
    return files


SOURCES = _sources()
POSITIONS = st.floats(0, 1, exclude_max=True)  # fractions of the file
NEAR_START = st.integers(0, 200)  # where most structure is
WORDS = st.sampled_from(
    [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0", b"\0\0\xff\xff", b"\0\1"]
)
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["replace", "replace", "insert", "delete", "repeat", "cut"]),
        POSITIONS | NEAR_START,
        WORDS | st.binary(min_size=1, max_size=8),
        st.integers(1, 64),
    ),
    max_size=6,
)


def mutate(data: bytes, mutations: list[tuple[str, float, bytes, int]]) -> bytes:
    for kind, place, new, length in mutations:
        start = place if isinstance(place, int) else int(place * len(data))
        if kind == "replace":
            data = data[:start] + new + data[start + len(new) :]
        elif kind == "insert":
            data = data[:start] + new * length + data[start:]
        elif kind == "delete":
            data = data[:start] + data[start + length :]
        elif kind == "repeat":
            data = data[:start] + data[start : start + 20 * length] * 3 + data[start + length :]
        else:
            data = data[: start + length]
    return data


def outcome(data: bytes) -> str:
    """Return the drop reason, or "image"; all ways to decode must end in one of them."""
    limits = {"min_size": 8, "max_pixels": MAX_PIXELS}
    try:
        decode_image.open_upload(data, max_pixels=MAX_PIXELS)
        assert decode_image.decode_square(data, 32, **limits).shape == (32, 32, 3)
    except ImageError as error:
        assert explain("failed", error.reason).description
    try:
        square = decode_image.make_square_jpeg(data, 32, **limits)
    except ImageError as error:
        return error.reason
    assert min(square.width, square.height) >= 8 and square.width * square.height <= MAX_PIXELS
    assert decode_image.decode_pixels(square.jpeg).shape == (32, 32, 3)
    return "image"


@pytest.mark.parametrize("source", SOURCES)
def test_a_whole_file_is_an_image(source: str):
    assert outcome(SOURCES[source]) == "image"


@pytest.mark.filterwarnings("ignore")  # of Pillow, about broken EXIF
@pytest.mark.parametrize("source", SOURCES)
def test_a_mutated_file_is_an_image_or_has_a_named_reason(source: str):
    found: Counter[str] = Counter()

    @given(MUTATIONS)
    def check(mutations: list[tuple[str, float, bytes, int]]) -> None:
        started = time.process_time()
        found[outcome(mutate(SOURCES[source], mutations))] += 1
        assert time.process_time() - started < MAX_SECONDS

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    check()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MAX_MEGABYTES << 10
    assert len(found) > 1, "no mutation has an effect"


@given(st.binary(max_size=300) | st.tuples(st.sampled_from(list(SOURCES.values())), st.binary(max_size=100)))
def test_any_bytes_have_a_named_reason(data: bytes | tuple[bytes, bytes]):
    if isinstance(data, tuple):
        data = data[0][:32] + data[1]
    assert outcome(data)
