"""Decoding of bytes from the web into images: square RGB for training and metrics, in their own size for uploads.

A file is never trusted: only formats that Pillow decodes itself are accepted, the number of pixels is checked before
any of them is decoded, and every error that a hostile file causes in a decoder becomes an ImageError.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # the others are rare, and some start programs
MAX_SCANS = 100  # of a JPEG; usual ones have about 10, and each is decoded over all pixels
JPEG_QUALITY = 95  # of the JPEGs that are written, without chroma subsampling, which blurs small images


class ImageError(ValueError):
    """Bytes that do not contain a usable image.

    Attributes:
        reason: The drop reason: not_an_image, too_small, too_many_pixels, too_many_scans, truncated or decode_error.
    """

    def __init__(self, reason: str):
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class SquareImage:
    """An encoded image, and the size of the original."""

    jpeg: bytes
    width: int  # as downloaded and upright, before resizing
    height: int


def make_square_jpeg(data: bytes, size: int, *, min_size: int, max_pixels: int) -> SquareImage:
    """Return the image as a JPEG of size x size, for training.

    The image is turned upright and converted to RGB, its shorter side is resized to `size` with antialiasing, and the
    centre is cropped.

    Args:
        data: The file's bytes.
        size: Width and height of the result, px.
        min_size: Minimum length of the shorter side, px.
        max_pixels: Maximum number of pixels, checked before decoding.

    Raises:
        ImageError: With the drop reason.
    """
    image = _open_within_limits(data, min_size, max_pixels)
    width, height = image.size
    # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size in less time; twice `size` is left for the antialiasing.
    image.draft(None, (2 * size, 2 * size))
    image = _upright(_load(image))
    if (image.width > image.height) != (width > height):
        width, height = height, width
    image = _rgb(image, size)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return SquareImage(file.getvalue(), width, height)


def decode_square(data: bytes, size: int, *, min_size: int, max_pixels: int) -> np.ndarray:
    """Return the square of `make_square_jpeg` as (size, size, 3) uint8, for metrics.

    The image is decoded in its full size and not compressed again: both would change a metric's value.
    """
    return np.asarray(_rgb(_upright(_load(_open_within_limits(data, min_size, max_pixels))), size))


def open_upload(data: bytes, *, max_pixels: int) -> Image.Image:
    """Return an uploaded image, upright, in its own size: RGBA if it has transparency, else RGB. Raise ImageError."""
    image = _eight_bit(_upright(_load(_open_within_limits(data, 1, max_pixels))))
    try:
        return image.convert("RGBA" if image.has_transparency_data else "RGB")
    except Exception:  # a colour space that Pillow cannot convert, a broken palette
        raise ImageError("decode_error") from None


def decode_pixels(data: bytes) -> np.ndarray:
    """Return an encoded image as (H, W, 3) uint8, without limits. Raise ImageError if it cannot be decoded."""
    return np.asarray(_rgb(_load(_open(data))))


def _open_within_limits(data: bytes, min_size: int, max_pixels: int) -> Image.Image:
    """Open an image. Raise ImageError if it is too small, or too expensive to decode."""
    image = _open(data)
    if min(image.size) < min_size:
        raise ImageError("too_small")
    if image.width * image.height > max_pixels:
        raise ImageError("too_many_pixels")
    # Pillow opens a JPEG file of several images as MPO.
    if image.format in ("JPEG", "MPO") and data.count(b"\xff\xda") > MAX_SCANS:
        raise ImageError("too_many_scans")
    return image


def _open(data: bytes) -> Image.Image:
    """Read the header alone: size and mode are known, no pixel is decoded."""
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
    except Exception as error:  # as above
        raise ImageError("truncated" if "truncated" in str(error).lower() else "decode_error") from None
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # an image that decodes is kept in spite of broken EXIF
        return image


def _rgb(image: Image.Image, size: int | None = None) -> Image.Image:
    """Return the image in RGB over white, cropped and resized to `size` x `size` if a size is given."""
    try:
        image = _eight_bit(image)
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
        if size is not None:
            image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
        if image.mode == "RGBA":  # after resizing: each step is one more copy of the image
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
        return image
    except Exception:  # a colour space that Pillow cannot convert, a broken palette
        raise ImageError("decode_error") from None


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return the image, 16-bit grey scaled down to 8 bits: Pillow alone would clip it."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
