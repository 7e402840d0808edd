"""The images of an edit whose body is JSON: data URLs, in the objects that OpenAI's API has for them.

{"images": [{"image_url": "data:image/png;base64,..."}], "mask": {"image_url": "data:..."}, "prompt": "..."}
"""

import base64
import binascii
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from emage.serving.request import RequestError

ONE_IMAGE = "{name}: {count} {kind} were sent; this model edits one image by one mask: send one {one}"
NO_MARKUP = "markup: this model reads no drawings on the image; mark the part to regenerate in mask instead"
_DATA_URL = "data:"


class ImageReference(BaseModel):
    """An image of an edit in JSON."""

    model_config = ConfigDict(strict=True, extra="forbid")

    image_url: str = Field(
        description="A data URL, `data:image/png;base64,...`. Nothing is fetched from other servers."
    )


def take_files(values: dict[str, Any]) -> dict[str, bytes]:
    """Remove the images from the parameters of an edit in JSON, and return them as the files of a form.

    Raises RequestError if there is not one image, or if one is no data URL.
    """
    if values.pop("markup", None):
        raise RequestError("invalid_value", NO_MARKUP, "markup")
    images = values.pop("images", None) or []
    if not isinstance(images, list):
        raise RequestError("invalid_value", 'images: must be a list, [{"image_url": "data:..."}]', "images")
    if not images:
        raise RequestError("missing_required_parameter", "images is required, a list with one data URL", "images")
    if len(images) > 1:
        message = ONE_IMAGE.format(name="images", count=len(images), kind="images", one="image")
        raise RequestError("invalid_value", message, "images")
    files = {"image": _decode("images", images[0])}
    if mask := values.pop("mask", None):
        files["mask"] = _decode("mask", mask)
    return files


def _decode(name: str, reference: Any) -> bytes:
    """Return the file of an image reference. Raises RequestError."""
    url = reference.get("image_url") if isinstance(reference, dict) else None
    if isinstance(reference, dict) and reference.get("file_id"):
        raise RequestError("invalid_value", f"{name}: file_id: this endpoint stores no files; send a data URL", name)
    if not isinstance(url, str) or set(reference) - {"image_url", "file_id"}:
        raise RequestError("invalid_value", f'{name}: must be {{"image_url": "data:image/png;base64,..."}}', name)
    head, _, data = url.partition(",")
    if not head.lower().startswith(_DATA_URL):
        message = f"{name}: this endpoint fetches nothing from other servers: send image_url as a data URL"
        raise RequestError("invalid_value", message, name)
    try:
        if not head.lower().endswith(";base64"):
            raise ValueError
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError("invalid_image", f"{name}: its data URL is not base64", name) from None
