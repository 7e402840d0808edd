"""Image files: decodes the uploads of an edit, encodes generated images."""

import io
from typing import Any, Protocol

from PIL import Image, ImageOps

from emage.data.ingest import decode_image
from emage.serving.limits import MAX_UPLOAD_PIXELS
from emage.serving.request import Format, GenerationRequest, RequestError
from emage.utils.errors import InputError

DECODE_ERROR_TEXTS = {
    "not_an_image": "it is not an image (PNG, JPEG, WebP, GIF, BMP or TIFF)",
    "too_many_pixels": f"it has more than {MAX_UPLOAD_PIXELS // 10**6} million pixels",
    "too_small": "it has no pixels",
    "truncated": "it is truncated",
}


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
    if request.mask is None and image.mode != "RGBA":
        message = "mask: it is missing, and the image has no transparent part"
        raise RequestError("missing_required_parameter", message, "mask")
    marked = _marked_part(image if request.mask is None else _decode("mask", request.mask))
    try:
        return pipe.prepare_inpainting(image.convert("RGB"), marked)
    except InputError as error:
        raise RequestError("invalid_value", f"mask: {error}", "mask") from None


def _decode(name: str, data: bytes) -> Image.Image:
    try:
        return decode_image.open_upload(data, max_pixels=MAX_UPLOAD_PIXELS)
    except decode_image.ImageError as error:
        reason = DECODE_ERROR_TEXTS.get(error.reason, "it cannot be decoded")
        raise RequestError("invalid_image", f"{name}: {reason}", name) from None


def _marked_part(mask: Image.Image) -> Image.Image:
    """Return an image that is white where the mask is transparent or, if it has no transparency, where it is white."""
    if mask.mode == "RGBA":
        alpha = mask.getchannel("A")
        if alpha.getextrema() != (255, 255):
            return ImageOps.invert(alpha)
    return mask.convert("L")


def encode_image(image: Image.Image, format: Format) -> bytes:
    """Return an image as a file."""
    file = io.BytesIO()
    if format == "png":
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=decode_image.JPEG_QUALITY, subsampling=0)
    return file.getvalue()


def size_text(image: Image.Image) -> str:
    """Return an image's size as WIDTHxHEIGHT."""
    return f"{image.width}x{image.height}"
