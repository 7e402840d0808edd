"""Image files: decodes the uploads of an edit, encodes generated images."""

import io
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageOps

from emage.data.images import colours, decode_image, file_kinds
from emage.serving.limits import MAX_UPLOAD_PIXELS
from emage.serving.request import Format, GenerationRequest, RequestError
from emage.utils.errors import InputError

DECODE_ERROR_TEXTS = {
    "web_page": "it is a web page, not an image",
    "not_an_image": f"it is not an image of a known format ({file_kinds.DECODED_NAMES})",
    "too_many_pixels": f"it has more than {MAX_UPLOAD_PIXELS // 10**6} million pixels",
    "too_many_scans": f"it is a JPEG of more than {decode_image.MAX_SCANS} scans",
    "too_small": "it has no pixels",
    "truncated": "it is truncated",
}
# How much of a mask's opaque part is near black or near white, for a mask that is painted in these two.
PAINTED_FRACTION = 0.9
NEAR_BLACK, NEAR_WHITE = 31, 224
HALF_TRANSPARENT = 128  # alpha below which a pixel is marked


class InpaintingPipeline(Protocol):
    """The part of emage.Emage that an edit needs."""

    def prepare_inpainting(self, image: Image.Image, mask: Image.Image) -> Any: ...


def read_edit(pipe: InpaintingPipeline, request: GenerationRequest) -> Any:
    """Return the inpainting input of an edit.

    Args:
        pipe: The model that regenerates the marked part.
        request: An edit: its `image` is a file, its `mask` a file or None.

    Returns:
        What `pipe.prepare_inpainting` returns.

    Raises:
        RequestError: A file cannot be decoded, the mask is missing, or the two do not fit together.
    """
    assert request.image is not None
    image = _decode("image", request.image)
    if request.mask is not None:
        marked = _marked_part(_decode("mask", request.mask))
    elif image.mode == "RGBA" and np.asarray(image.getchannel("A")).min() < HALF_TRANSPARENT:
        marked = _transparent_part(image)
    else:
        message = (
            "mask: it is missing, and the image has no transparent part: this model regenerates a marked part, so send "
            "a mask of the same size that is transparent, or white on black, where the image is to change"
        )
        raise RequestError("missing_required_parameter", message, "mask")
    try:
        return pipe.prepare_inpainting(colours.over_white(image), marked)
    except InputError as error:
        raise RequestError("invalid_value", f"mask: {error}", "mask") from None


def _decode(name: str, data: bytes) -> Image.Image:
    try:
        return decode_image.open_upload(data, max_pixels=MAX_UPLOAD_PIXELS)
    except decode_image.ImageError as error:
        text = DECODE_ERROR_TEXTS.get(error.reason, "it is damaged and cannot be decoded")
        if (kind := error.reason.removeprefix("format_")) != error.reason:
            text = f"it is {file_kinds.REFUSED[kind]}, which is not decoded; send {file_kinds.DECODED_NAMES}"
        raise RequestError("invalid_image", f"{name}: {text}", name) from None


def _marked_part(mask: Image.Image) -> Image.Image:
    """Return an image that is white where the mask marks: where it is transparent, or white in a painted mask.

    A mask without transparency is a painted one, and so is one whose opaque part is black and white. Any other is a
    copy of the image with a hole in it, whose bright parts mark nothing.
    """
    if mask.mode == "RGB" or _is_painted(mask):
        return colours.over_white(mask).convert("L")
    return _transparent_part(mask)


def _is_painted(mask: Image.Image) -> bool:
    values = np.asarray(mask)
    opaque = values[values[..., 3] >= HALF_TRANSPARENT][:, :3]  # (n, 3)
    black, white = (opaque <= NEAR_BLACK).all(1), (opaque >= NEAR_WHITE).all(1)
    return bool(black.any()) and float((black | white).mean()) >= PAINTED_FRACTION


def _transparent_part(image: Image.Image) -> Image.Image:
    return ImageOps.invert(image.getchannel("A"))


def encode_image(image: Image.Image, format: Format, quality: int | None = None) -> bytes:
    """Return an image as a file. `quality`: of a jpeg or webp, 0 to 100; None: decode_image.JPEG_QUALITY."""
    file = io.BytesIO()
    options = {} if format == "png" else {"quality": decode_image.JPEG_QUALITY if quality is None else quality}
    if format == "jpeg":
        options["subsampling"] = 0
    image.save(file, format, **options)
    return file.getvalue()


def scale_to(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return an image scaled to cover (width, height), and cropped to the centre if its shape is another."""
    return image if image.size == size else ImageOps.fit(image, size, Image.Resampling.LANCZOS)


def size_text(image: Image.Image) -> str:
    """Return an image's size as WIDTHxHEIGHT."""
    return f"{image.width}x{image.height}"
