"""Bytes from the web -> a square RGB image, or the reason why not. No network, no tokens here.

`square` trusts nothing: only formats that Pillow decodes itself, the number of pixels checked before any is decoded,
and whatever a hostile file makes a decoder raise becomes a named cause.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # the others are rare, and some start programs
MAX_SCANS = 100  # of a JPEG; honest ones have about 10, and each costs a pass over all pixels
QUALITY = 95  # of the JPEG that we write; without chroma subsampling, which blurs small images


class ImageError(ValueError):
    """Bytes that give no usable image.

    Attributes:
        reason: The drop reason: not_an_image, too_small, too_many_pixels, too_many_scans, truncated or decode_error.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class SquareImage:
    jpeg: bytes
    width: int  # as downloaded and upright, before resizing
    height: int


def square(data: bytes, size: int, *, min_size: int, max_pixels: int) -> SquareImage:
    """Upright, RGB, the shorter side resized to `size` with antialias, the centre cropped: always size x size."""
    image = _admit(data, min_size, max_pixels)
    width, height = image.size
    # A JPEG decodes at 1/2, 1/4 or 1/8 for a fraction of the time; twice the goal is left for the antialiasing.
    image.draft(None, (2 * size, 2 * size))
    image = _upright(_load(image))
    if (image.width > image.height) != (width > height):
        width, height = height, width
    image = _rgb(image, size)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY, subsampling=0)
    return SquareImage(file.getvalue(), width, height)


def crop(data: bytes, size: int, *, min_size: int, max_pixels: int) -> np.ndarray:
    """The same square as (size, size, 3) uint8, decoded in full and not compressed again: what `square` saves time and
    space by would show in the figures of a metric.
    """
    return np.asarray(_rgb(_upright(_load(_admit(data, min_size, max_pixels))), size))


def opened(data: bytes, *, max_pixels: int) -> Image.Image:
    """An uploaded image, upright, in its own size, RGB or, where it has transparency, RGBA. Raises ImageError."""
    image = _eight_bit(_upright(_load(_admit(data, 1, max_pixels))))
    try:
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    except Exception:  # a colour space that Pillow cannot convert, a broken palette
        raise ImageError("decode_error") from None


def pixels(data: bytes) -> np.ndarray:
    """An encoded image as (H, W, 3) uint8. Raises ImageError where it cannot be decoded."""
    return np.asarray(_rgb(_load(_open(data))))


def _admit(data: bytes, min_size: int, max_pixels: int) -> Image.Image:
    """As _open, and refuses what is too small, or too much to decode."""
    image = _open(data)
    if min(image.size) < min_size:
        raise ImageError("too_small")
    if image.width * image.height > max_pixels:
        raise ImageError("too_many_pixels")
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS:
        raise ImageError("too_many_scans")
    return image


def _open(data: bytes) -> Image.Image:
    """The header alone: size and mode are known, no pixel is decoded."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise ImageError("too_many_pixels") from None
    except Exception:  # a hostile header can make a decoder raise anything
        raise ImageError("not_an_image") from None


def _load(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # likewise
        raise ImageError("truncated" if "truncated" in str(error).lower() else "decode_error") from None
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF is no reason to lose an image that decodes
        return image


def _rgb(image: Image.Image, size: int | None = None) -> Image.Image:
    """The image in RGB, cut and resized to `size` x `size` where one is given.

    Transparency goes over white; 16-bit grey is scaled down, where Pillow alone would clip it.
    """
    try:
        image = _eight_bit(image)
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        if size is not None:
            image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
        if image.mode == "RGBA":  # when it is small: each step here is one more copy
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image
    except Exception:  # a colour space that Pillow cannot convert, a broken palette
        raise ImageError("decode_error") from None


def _eight_bit(image: Image.Image) -> Image.Image:
    """16-bit grey scaled down, where Pillow alone would clip it."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
