"""The schemas of the HTTP API: request, answer, stream events and errors, as OpenAI's images API has them and ours.

A field's type and range here are what is checked without the model; the sampling settings are checked by the model
(`check_sampling` in emage/methods/sampling.py), because the range of `steps` depends on it.
"""

import base64
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from emage.config import GuidanceSchedule, Revise, SamplingConfig, Schedule, UnmaskingOrder
from emage.serving.error_codes import ERROR_CODES, error_type
from emage.serving.request import MODEL_NAME, GeneratedImage, GenerationRequest, PreviewImage

EXAMPLE_PROMPT = "a small red circle above a large blue square"
MAX_PROMPT_CHARACTERS = 4_000
EventPrefix = Literal["image_generation", "image_edit"]


class ImageRequest(BaseModel):
    """The body of POST /v1/images/generations. OpenAI's fields come first; those from `seed` on are Emage's."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: str = Field(
        min_length=1, max_length=MAX_PROMPT_CHARACTERS, description="text to generate from", examples=[EXAMPLE_PROMPT]
    )
    model: str | None = Field(None, description="a name that `GET /v1/models` lists", examples=[MODEL_NAME])
    n: int | None = Field(1, ge=1, le=10, description="number of images; image i has the seed `seed + i`")
    size: str | None = Field(
        None, description="WIDTHxHEIGHT of the model's images, or `auto`; there is no other size", examples=["auto"]
    )
    response_format: Literal["b64_json"] | None = Field(None, description="images are returned, never stored")
    output_format: Literal["png", "jpeg"] | None = Field(None, description="file format; null: png")
    quality: Literal["auto", "standard"] | None = Field(None, description="accepted and ignored: one quality exists")
    background: Literal["auto", "opaque"] | None = Field(None, description="accepted and ignored: images are opaque")
    user: str | None = Field(None, max_length=1_000, description="accepted and ignored")
    stream: bool | None = Field(None, description="answer with server-sent events: previews, then the images")
    partial_images: int | None = Field(
        None,
        ge=0,
        le=64,
        description="previews per image in a stream, evenly spread; null: one per decoding step",
    )
    seed: int | None = Field(None, ge=0, lt=2**53, description="the same seed gives the same image; null: random")
    candidates: int = Field(1, ge=1, le=16, description="images generated per returned one, the best by `rank`")
    rank: Literal["none", "likelihood"] = Field(
        "likelihood", description="how the best candidate is chosen: by the model's likelihood, or the first one"
    )
    steps: int | None = Field(None, description="decoding steps")
    schedule: Schedule | None = Field(None, description="how many tokens are kept after each step")
    order: UnmaskingOrder | None = Field(None, description="which tokens are kept first")
    temperature: float | None = Field(None, description="temperature of the sampled tokens; 0: argmax")
    top_k: int | None = Field(None, description="sample among the k most probable tokens; 0: among all")
    top_p: float | None = Field(None, description="sample within the nucleus of this probability")
    gumbel: float | None = Field(None, description="noise on the unmasking order, for `order=confidence` only")
    revise: Revise | None = Field(None, description="how `iterative3` rewrites tokens that are unmasked already")
    guidance: float | None = Field(
        None, description="classifier-free guidance scale; 0: off. The model must be trained with caption dropout"
    )
    guidance_schedule: GuidanceSchedule | None = Field(
        None, description="linear: the scale grows from 1 to `guidance` over the steps"
    )
    remask: float | None = Field(None, description="fraction of the unmasked tokens that every step masks again")

    def to_generation_request(
        self, seed: int, image: bytes | None = None, mask: bytes | None = None
    ) -> GenerationRequest:
        """Return the request to the model.

        Args:
            seed: The seed to use if the body has none.
            image: An edit's image file.
            mask: An edit's mask file.
        """
        return GenerationRequest(
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
            num_previews=self.partial_images if self.stream else 0,
        )


class ImageData(BaseModel):
    """An image and the seed that generates it again."""

    b64_json: str = Field(description="the file, base64")
    seed: int = Field(description="the seed that generates the same image again")


class ImageResponse(BaseModel):
    """The answer of both image routes without `stream`."""

    created: int = Field(description="Unix time in seconds")
    data: list[ImageData] = Field(description="the images, in the order of their seeds")
    output_format: Literal["png", "jpeg"] = Field(description="format of the files")
    size: str = Field(description="WIDTHxHEIGHT")
    prompt_cut: bool = Field(description="whether the prompt was truncated: it is longer than the text encoder reads")


class ImageEvent(BaseModel):
    """The fields of every image event."""

    type: str = Field(description="`image_generation` or `image_edit`, then `.partial_image` or `.completed`")
    b64_json: str = Field(description="the file, base64")
    created_at: int = Field(description="Unix time in seconds")
    size: str = Field(description="WIDTHxHEIGHT")
    output_format: Literal["png", "jpeg"] = Field(
        description="previews are PNG up to 128 pixels a side, else JPEG; a finished image has the requested format"
    )
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    index: int = Field(description="which of the `n` images, from 0")
    seed: int = Field(description="the seed of this image")
    step: int = Field(description="decoding steps done")
    steps: int = Field(description="decoding steps in all")
    known: float = Field(description="fraction of the tokens that are unmasked")


class PartialImageEvent(ImageEvent):
    """A preview: `image_generation.partial_image` or `image_edit.partial_image`."""

    partial_image_index: int = Field(description="which preview of this image, from 0")


class CompletedEvent(ImageEvent):
    """A finished image: `image_generation.completed` or `image_edit.completed`."""

    prompt_cut: bool = Field(description="whether the prompt was truncated: it is longer than the text encoder reads")


class ErrorBody(BaseModel):
    """What is wrong."""

    message: str = Field(description="one line: what is wrong, what to do")
    type: str = Field(description="OpenAI's name for the kind of error; it follows from the status")
    param: str | None = Field(description="the field that is at fault, or null")
    code: str = Field(description="see the error codes")


class ErrorResponse(BaseModel):
    """Every answer other than 200."""

    error: ErrorBody


def image_response(images: list[GeneratedImage]) -> ImageResponse:
    """Return the answer for the finished images of a request, in any order."""
    ordered = sorted(images, key=lambda image: image.index)
    first = ordered[0]
    return ImageResponse(
        created=int(time.time()),
        data=[ImageData(b64_json=_base64(image.file), seed=image.seed) for image in ordered],
        output_format=first.format,
        size=first.size,
        prompt_cut=first.prompt_truncated,
    )


def stream_event(prefix: EventPrefix, image: PreviewImage | GeneratedImage) -> dict[str, Any]:
    """Return the data of an image's server-sent event."""
    fields: dict[str, Any] = {
        "b64_json": _base64(image.file),
        "created_at": int(time.time()),
        "size": image.size,
        "output_format": image.format,
        "index": image.index,
        "seed": image.seed,
        "steps": image.steps,
    }
    if isinstance(image, GeneratedImage):
        done = {"step": image.steps, "known": 1.0, "prompt_cut": image.prompt_truncated}
        return CompletedEvent(type=f"{prefix}.completed", **fields, **done).model_dump()
    progress = {"step": image.step, "known": round(image.unmasked, 4), "partial_image_index": image.number}
    return PartialImageEvent(type=f"{prefix}.partial_image", **fields, **progress).model_dump()


def error_body(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Return the body of an error; the code gives its `type`."""
    kind = error_type(ERROR_CODES[code].status)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _base64(file: bytes) -> str:
    return base64.b64encode(file).decode()
