"""What a request asks for and does not get: accepted with a warning if the image is the same, else refused.

A client of another server sends what that server knows. A parameter that cannot change the image is accepted, and the
answer's `warnings` name it. One whose image would not be what was asked for is refused.
"""

import logging
from collections.abc import Iterator
from typing import Any

from emage.serving.http.parameters.schema import WITHOUT_EFFECT, ImageRequest
from emage.serving.request import RequestError

_log = logging.getLogger(__name__)

_AUTO = "auto"  # a value that asks for nothing in particular: no warning is due
STILL_IMAGES = "this model generates still images of pixels: png, jpeg or webp"
REFUSED = {
    ("background", "transparent"): "images of this model have no transparent parts; send opaque, or leave it out",
    ("output_format", "gif"): STILL_IMAGES,
    ("output_format", "svg"): STILL_IMAGES,
}


def check_refused(given: dict[str, Any]) -> None:
    """Raise RequestError for a value whose image would not be what was asked for."""
    for (name, value), reason in REFUSED.items():
        if given.get(name) == value:
            raise RequestError("invalid_value", f"{name}={value}: {reason}", name)


def warnings(body: ImageRequest) -> list[str]:
    """Return one line for each parameter that changes nothing, and log their names."""
    found = dict(_without_effect(body))
    if found:
        _log_once(tuple(found))
    return [f"{name}: has no effect: {reason}" for name, reason in found.items()]


def _without_effect(body: ImageRequest) -> Iterator[tuple[str, str]]:
    for name, reason in WITHOUT_EFFECT.items():
        if getattr(body, name) not in (None, _AUTO, {}):
            yield name, reason
    if body.output_compression is not None and body.output_format in (None, "png"):
        yield "output_compression", "a png is lossless"
    if body.partial_images and not body.stream:
        yield "partial_images", "previews are sent with stream=true only"
    if body.stream and body.response_format == "url":
        yield "response_format", "the events of a stream have b64_json"
    if body.scale and body.size in (None, _AUTO):
        yield "scale", "size does not name another size"


_logged: set[tuple[str, ...]] = set()  # names of the API's own parameters only, so that it cannot grow without end


def _log_once(names: tuple[str, ...]) -> None:
    """Log that a client sends parameters without effect: their names only, and the same names once per process."""
    if names not in _logged:
        _logged.add(names)
        _log.warning("a client sends parameters without effect (the answers name them): %s", ", ".join(names))
