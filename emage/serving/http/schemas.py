"""What goes over the wire: the OpenAI images API, and what lies beyond it. Answers and events as JSON.

Field by field what a request may hold, which is all that is checked without the model.
"""

import base64
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from emage.config import SamplingConfig, Schedule, UnmaskingOrder
from emage.serving.request import MODEL, GeneratedImage, Order, Preview

PROMPT = "a small red circle above a large blue square"
MAX_PROMPT = 4_000  # characters
Event = Literal["image_generation", "image_edit"]


class ImageRequest(BaseModel):
    """The body of POST /v1/images/generations; what lies below `partial_images` is ours."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: str = Field(min_length=1, max_length=MAX_PROMPT, examples=[PROMPT])
    model: str | None = Field(None, description="a name that /v1/models lists", examples=[MODEL])
    n: int | None = Field(1, ge=1, le=10, description="images; image i has the seed `seed + i`")
    size: str | None = Field(None, description="WIDTHxHEIGHT of the model's images, or auto", examples=["auto"])
    response_format: Literal["b64_json"] | None = Field(None, description="no images are kept that a url could name")
    output_format: Literal["png", "jpeg"] | None = Field(None, description="png unless asked otherwise")
    quality: Literal["auto", "standard"] | None = Field(None, description="there is one quality")
    background: Literal["auto", "opaque"] | None = None
    user: str | None = Field(None, max_length=1_000)
    stream: bool | None = Field(None, description="server-sent events: previews, then the images")
    partial_images: int | None = Field(
        None, ge=0, le=64, description="previews of each image, spread evenly; none: one after every pass"
    )
    seed: int | None = Field(None, ge=0, lt=2**53, description="same seed, same image; none: random")
    candidates: int = Field(1, ge=1, le=16, description="images drawn for each one returned, the best by `rank`")
    rank: Literal["none", "likelihood"] = "likelihood"
    steps: int | None = Field(None, description="passes; none: the model's own")
    schedule: Schedule | None = None
    order: UnmaskingOrder | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    gumbel: float | None = None
    revise: Literal["argmax", "sample"] | None = None
    guidance: float | None = None
    guidance_schedule: Literal["constant", "linear"] | None = None
    remask: float | None = None

    def to_order(self, seed: int, image: bytes | None = None, mask: bytes | None = None) -> Order:
        """What the request asks of a model. `seed` stands in where it names none."""
        return Order(
            prompt=self.prompt,
            n=self.n or 1,
            seed=seed if self.seed is None else self.seed,
            candidates=self.candidates,
            rank=self.rank,
            sampling=self.model_dump(exclude_none=True, include=set(SamplingConfig.__dataclass_fields__)),
            size=self.size,
            image=image,
            mask=mask,
            format=self.output_format or "png",
            frames=self.partial_images if self.stream else 0,
        )


class ImageData(BaseModel):
    """An image and the seed that draws it again."""

    b64_json: str
    seed: int


class ImageResponse(BaseModel):
    """The answer of both endpoints."""

    created: int
    data: list[ImageData]
    output_format: Literal["png", "jpeg"]
    size: str = Field(description="WIDTHxHEIGHT")
    prompt_cut: bool = Field(description="whether the prompt is longer than the model reads, so that its end was lost")


class ErrorBody(BaseModel):
    message: str = Field(description="one line: what is wrong, what to do")
    type: str
    param: str | None
    code: str | None


class ErrorResponse(BaseModel):
    """Every answer other than 200."""

    error: ErrorBody


def answer(images: list[GeneratedImage]) -> ImageResponse:
    ordered = sorted(images, key=lambda image: image.index)
    data = [ImageData(b64_json=_base64(image.file), seed=image.seed) for image in ordered]
    first = ordered[0]
    return ImageResponse(
        created=int(time.time()), data=data, output_format=first.format, size=first.size, prompt_cut=first.prompt_cut
    )


def event(name: Event, what: Preview | GeneratedImage) -> dict[str, Any]:
    """A server-sent event's data: OpenAI's fields, then ours."""
    shared = {
        "b64_json": _base64(what.file),
        "created_at": int(time.time()),
        "size": what.size,
        "output_format": what.format,
        "quality": "auto",
        "background": "opaque",
        "index": what.index,
        "seed": what.seed,
    }
    if isinstance(what, GeneratedImage):
        done = {"step": what.steps, "steps": what.steps, "known": 1.0, "prompt_cut": what.prompt_cut}
        return {"type": f"{name}.completed", **shared, **done}
    progress = {"step": what.step, "steps": what.steps, "known": round(what.known, 4)}
    return {"type": f"{name}.partial_image", "partial_image_index": what.number, **shared, **progress}


def error(status: int, message: str, param: str | None, code: str | None) -> dict[str, Any]:
    """An error as the API shows it."""
    kinds = {401: "authentication_error", 403: "permission_error", 408: "timeout_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _base64(file: bytes) -> str:
    return base64.b64encode(file).decode()
