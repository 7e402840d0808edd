"""Decoding of bytes from the web into images: square RGB for training and metrics, in their own size for uploads.

A file is never trusted: only the formats of file_kinds.py are decoded, the number of pixels is checked before any of
them is decoded, and every error that a hostile file causes in a decoder becomes an ImageError.
"""

import io
import warnings
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image, ImageOps

from emage.data.images import colours, file_kinds, file_structure

try:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False, depth_images=False, aux_images=False)
    NOT_INSTALLED = frozenset()
except ImportError:  # it is part of the extra "pipelines"
    NOT_INSTALLED = frozenset({"heic"})

# What Pillow warns of is either an image all the same, or a drop reason. (Not catch_warnings: images are decoded in
# threads, which share the filters.)
warnings.filterwarnings("ignore", module=r"PIL\.")

MAX_SCANS = 100  # of a JPEG; usual ones have about 10, and each is decoded over all pixels
JPEG_QUALITY = 95  # of the JPEGs that are written, without chroma subsampling, which blurs small images

_STRIP = {"jpeg": file_structure.strip_jpeg, "png": file_structure.strip_png}
_TURNS = {  # by the value of EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)  # width and height are exchanged


class ImageError(ValueError):
    """Bytes that do not contain a usable image.

    Attributes:
        reason: The drop reason: web_page, not_an_image, format_KIND (a kind of file_kinds.REFUSED), too_small,
            too_many_pixels, too_many_scans, truncated or decode_error.
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
    width, height = image.size  # now: decoding at a fraction of the size rounds both
    # A JPEG is decoded at 1/2, 1/4 or 1/8 of its size in less time; twice `size` is left for the antialiasing.
    image.draft(None, (2 * size, 2 * size))
    orientation = _orientation(_load(image))
    if orientation in _SIDEWAYS:
        width, height = height, width
    file = io.BytesIO()
    _square(_turned(image, orientation), size).save(file, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return SquareImage(file.getvalue(), width, height)


def decode_square(data: bytes, size: int, *, min_size: int, max_pixels: int) -> np.ndarray:
    """Return the square of `make_square_jpeg` as (size, size, 3) uint8, for metrics.

    The image is decoded in its full size and not compressed again: both would change a metric's value.
    """
    return np.asarray(_square(_upright(_load(_open_within_limits(data, min_size, max_pixels))), size))


def open_upload(data: bytes, *, max_pixels: int) -> Image.Image:
    """Return an uploaded image, upright, in its own size: RGBA if a pixel is transparent, else RGB.

    Raises:
        ImageError: With the drop reason.
    """
    return _with_alpha(_upright(_load(_open_within_limits(data, 1, max_pixels))))


def decode_pixels(data: bytes) -> np.ndarray:
    """Return an encoded image as (H, W, 3) uint8, without limits. Raise ImageError if it cannot be decoded."""
    return np.asarray(colours.over_white(_with_alpha(_load(_open(data)))))


def _open_within_limits(data: bytes, min_size: int, max_pixels: int) -> Image.Image:
    """Open an image. Raise ImageError if it is too small, or too expensive to decode."""
    image = _open(data)
    if min(image.size) < min_size:
        raise ImageError("too_small")
    if image.width * image.height > max_pixels:
        raise ImageError("too_many_pixels")
    if image.format in ("JPEG", "MPO") and file_structure.count_jpeg_scans(data, MAX_SCANS) > MAX_SCANS:
        raise ImageError("too_many_scans")
    return image


def _open(data: bytes) -> Image.Image:
    """Read the header alone: size and mode are known, no pixel is decoded."""
    kind = file_kinds.identify(data)
    if kind is None:
        raise ImageError("not_an_image")
    if kind == file_kinds.WEB_PAGE:
        raise ImageError(kind)
    if kind not in file_kinds.DECODED or kind in NOT_INSTALLED:
        raise ImageError(f"format_{kind}")
    if kind in _STRIP:
        data = _STRIP[kind](data)
    try:
        return Image.open(io.BytesIO(data), formats=[file_kinds.DECODED[kind].pillow])
    except Image.DecompressionBombError:
        raise ImageError("too_many_pixels") from None
    except Exception as error:  # a hostile header can make a decoder raise anything
        raise ImageError(_reason(error)) from None


def _load(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:  # as above
        raise ImageError(_reason(error)) from None
    return image


def _reason(error: Exception) -> str:
    text = str(error).lower()
    return "truncated" if "truncated" in text or "end of file" in text else "decode_error"


def _upright(image: Image.Image) -> Image.Image:
    return _turned(image, _orientation(image))


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    # Not ImageOps.exif_transpose: it writes the EXIF data again, and fails on what it cannot write.
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _orientation(image: Image.Image) -> int:
    """Return EXIF's orientation of a loaded image: 1, upright, if it is missing or broken."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # an image that decodes is kept in spite of broken EXIF
        return 1
    return orientation if isinstance(orientation, int) else 1


def _square(image: Image.Image, size: int) -> Image.Image:
    """Return the centre square of an image, resized to `size` x `size`, in RGB over white."""
    image = _with_alpha(image)
    try:
        # Over white after resizing: before it, this would be one more copy of the whole image.
        return colours.over_white(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
    except Exception:
        raise ImageError("decode_error") from None


def _with_alpha(image: Image.Image) -> Image.Image:
    try:
        return colours.with_alpha(image)
    except Exception:  # a colour space that Pillow cannot convert, a broken palette
        raise ImageError("decode_error") from None
