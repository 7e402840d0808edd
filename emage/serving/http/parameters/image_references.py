"""The images of an edit whose body is JSON: data URLs, in the objects that OpenAI's API has for them.

{"images": [{"image_url": "data:image/png;base64,..."}], "mask": {"image_url": "data:..."}, "prompt": "..."}
"""

import base64
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from emage.serving.request import RequestError

_EXAMPLE = "data:image/png;base64,..."


class ImageReference(BaseModel):
    """An image of an edit in JSON."""  # OpenAPI describes it so; `take_files` reads it

    model_config = ConfigDict(strict=True, extra="forbid")

    image_url: str = Field(
        description="A data URL, `data:image/png;base64,...`. Nothing is fetched from other servers."
    )


def markup_error() -> RequestError:
    """Return the error for OpenAI's `markup`, an image with drawings on it."""
    message = "markup: this model reads no drawings on the image; mark the part to regenerate in mask instead"
    return RequestError("invalid_value", message, "markup")


def several_images_error(name: str, sent: str, one: str) -> RequestError:
    """Return the error for more than one image or mask: how many were `sent`, and what to send one of."""
    message = f"{name}: {sent} were sent; this model edits one image by one mask: send one {one}"
    return RequestError("invalid_value", message, name)


def take_files(values: dict[str, Any]) -> dict[str, bytes]:
    """Remove the images from the parameters of an edit in JSON, and return them as the files of a form.

    Raises RequestError if there is not one image, or if one is no data URL.
    """
    if values.pop("markup", None):
        raise markup_error()
    images = values.pop("images", None) or []
    if not isinstance(images, list):
        raise RequestError("invalid_value", 'images: must be a list, [{"image_url": "data:..."}]', "images")
    if not images:
        raise RequestError("missing_required_parameter", "images is required, a list with one data URL", "images")
    if len(images) > 1:
        raise several_images_error("images", f"{len(images)} images", "image")
    files = {"image": _decode("images", images[0])}
    if mask := values.pop("mask", None):
        files["mask"] = _decode("mask", mask)
    return files


def _decode(name: str, reference: Any) -> bytes:
    """Return the file of an image reference. Raises RequestError."""
    fields = reference if isinstance(reference, dict) else {}
    if fields.get("file_id"):
        raise RequestError("invalid_value", f"{name}: file_id: this endpoint stores no files; send a data URL", name)
    url = fields.get("image_url")
    if not isinstance(url, str) or set(fields) - {"image_url", "file_id"}:
        raise RequestError("invalid_value", f'{name}: must be {{"image_url": "{_EXAMPLE}"}}', name)
    head, _, data = url.partition(",")
    if not head.lower().startswith("data:"):
        message = f"{name}: this endpoint fetches nothing from other servers: send image_url as a data URL, {_EXAMPLE}"
        raise RequestError("invalid_value", message, name)
    not_base64 = RequestError("invalid_image", f"{name}: its data URL is not base64: send {_EXAMPLE}", name)
    if not head.lower().endswith(";base64"):
        raise not_base64
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:  # also binascii.Error
        raise not_base64 from None
