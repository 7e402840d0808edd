"""The schemas of the HTTP API: request, answer, stream events and errors, with OpenAI's fields and our own.

Types and ranges of the fields are checked here, without the model. The sampling settings are checked by the model
(`check_sampling` in emage/methods/sampling.py), because the range of `steps` depends on it.
"""

import base64
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from emage.config import GuidanceSchedule, Revise, SamplingConfig, Schedule, UnmaskingOrder
from emage.config.fields import leaves
from emage.serving.error_codes import ERROR_CODES, error_type
from emage.serving.limits import MAX_CANDIDATES, MAX_IMAGES, MAX_PREVIEWS, MAX_PROMPT_CHARACTERS, MAX_SEED
from emage.serving.request import MODEL_NAME, GeneratedImage, GenerationRequest, PreviewImage

EXAMPLE_PROMPT = "a small red circle above a large blue square"
SAMPLING_SETTINGS = leaves(SamplingConfig)
EventPrefix = Literal["image_generation", "image_edit"]


def _sampling(name: str) -> Any:
    """Return the field of a sampling setting, described as in SamplingConfig; null leaves the model's own value."""
    return Field(None, description=SAMPLING_SETTINGS[name].setting.meaning)


class ImageRequest(BaseModel):
    """The body of POST /v1/images/generations. OpenAI's fields come first; those from `seed` on are Emage's."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: str = Field(
        min_length=1, max_length=MAX_PROMPT_CHARACTERS, description="Text to generate from.", examples=[EXAMPLE_PROMPT]
    )
    model: str | None = Field(None, description="A name that `GET /v1/models` lists.", examples=[MODEL_NAME])
    n: int | None = Field(1, ge=1, le=MAX_IMAGES, description="Number of images. Image i has the seed `seed` + i.")
    size: str | None = Field(
        None, description="WIDTHxHEIGHT of the model's images, or `auto`; there is no other size.", examples=["auto"]
    )
    response_format: Literal["b64_json"] | None = Field(None, description="Images are returned, never stored.")
    output_format: Literal["png", "jpeg"] | None = Field(None, description="Format of the files; null: png.")
    quality: Literal["auto", "standard"] | None = Field(None, description="Has no effect: there is one quality.")
    background: Literal["auto", "opaque"] | None = Field(None, description="Has no effect: images are opaque.")
    user: str | None = Field(None, max_length=1_000, description="Has no effect.")
    stream: bool | None = Field(None, description="Answer with server-sent events: previews, then the images.")
    partial_images: int | None = Field(
        None,
        ge=0,
        le=MAX_PREVIEWS,
        description="Previews per image in a stream, evenly spread; null: one per decoding step.",
    )
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="The same seed gives the same image; null: random.")
    candidates: int = Field(
        1, ge=1, le=MAX_CANDIDATES, description="Images generated per returned one, which is the best by `rank`."
    )
    rank: Literal["none", "likelihood"] = Field(
        "likelihood", description="How the best candidate is chosen: by the model's likelihood, or simply the first."
    )
    steps: int | None = _sampling("steps")
    schedule: Schedule | None = _sampling("schedule")
    order: UnmaskingOrder | None = _sampling("order")
    temperature: float | None = _sampling("temperature")
    top_k: int | None = _sampling("top_k")
    top_p: float | None = _sampling("top_p")
    gumbel: float | None = _sampling("gumbel")
    revise: Revise | None = _sampling("revise")
    guidance: float | None = _sampling("guidance")
    guidance_schedule: GuidanceSchedule | None = _sampling("guidance_schedule")
    remask: float | None = _sampling("remask")

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

    b64_json: str = Field(description="The file, in base64.")
    seed: int = Field(description="The seed that generates the same image again.")


_TRUNCATED = "True if the prompt was truncated: it is longer than the text encoder reads."


class ImageResponse(BaseModel):
    """The answer of both image routes without `stream`."""

    created: int = Field(description="Unix time in seconds.")
    data: list[ImageData] = Field(description="The images, in the order of their seeds.")
    output_format: Literal["png", "jpeg"] = Field(description="Format of the files.")
    size: str = Field(description="WIDTHxHEIGHT.")
    prompt_cut: bool = Field(description=_TRUNCATED)


class ImageEvent(BaseModel):
    """The fields of both image events."""

    type: str = Field(description="Name of the event.")
    b64_json: str = Field(description="The file, in base64.")
    created_at: int = Field(description="Unix time in seconds.")
    size: str = Field(description="WIDTHxHEIGHT.")
    output_format: Literal["png", "jpeg"] = Field(
        description="Format of the file. Previews are PNG up to 128 pixels a side, else JPEG."
    )
    quality: Literal["auto"] = Field("auto", description="Always the same.")
    background: Literal["opaque"] = Field("opaque", description="Always the same.")
    index: int = Field(description="Which of the `n` images, from 0.")
    seed: int = Field(description="The seed of this image.")
    step: int = Field(description="Decoding steps done.")
    steps: int = Field(description="Decoding steps in all.")
    known: float = Field(description="Fraction of the tokens that are unmasked.")


class PartialImageEvent(ImageEvent):
    """A preview after a decoding step."""

    partial_image_index: int = Field(description="Which preview of this image, from 0.")


class CompletedEvent(ImageEvent):
    """A finished image."""

    prompt_cut: bool = Field(description=_TRUNCATED)


class ModelDescription(BaseModel):
    """The served model."""

    id: str = Field(description="Its name in `model`.")
    object: Literal["model"] = Field("model", description="Always the same.")
    created: int = Field(description="Unix time of the frontend's start, in seconds.")
    owned_by: Literal["emage"] = Field("emage", description="Always the same.")
    method: str | None = Field(description="Decoding method the model was trained with.")
    step: int | None = Field(description="Training step of the checkpoint.")
    size: str = Field(description="WIDTHxHEIGHT of its images.")
    grid: tuple[int, int] = Field(description="Rows and columns of an image's tokens.")
    sampling: dict[str, Any] = Field(description="The sampling settings that are the defaults of requests.")
    examples: list[str] = Field(description="Prompts to try.")
    reload: dict[str, str] | None = Field(
        None,
        description="Present while another checkpoint is loaded (`loading`), or if one could not be loaded "
        "(`not_loaded`, `reason`).",
    )


class ModelList(BaseModel):
    """The answer of `GET /v1/models`."""

    object: Literal["list"] = Field("list", description="Always the same.")
    data: list[ModelDescription] = Field(description="The one model.")


class ErrorBody(BaseModel):
    """An error."""

    message: str = Field(description="One line: what is wrong and what to do.")
    type: str = Field(description="OpenAI's name for the kind of error; it follows from the status.")
    param: str | None = Field(description="The field that is at fault, or null.")
    code: str = Field(description="One of the error codes.")


class ErrorResponse(BaseModel):
    """Every answer other than 200."""

    error: ErrorBody = Field(description="The error.")


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
    progress = {"step": image.step, "known": round(image.unmasked, 4), "partial_image_index": image.preview_index}
    return PartialImageEvent(type=f"{prefix}.partial_image", **fields, **progress).model_dump()


def error_body(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Return the body of an error; the code gives its `type`."""
    kind = error_type(ERROR_CODES[code].status)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _base64(file: bytes) -> str:
    return base64.b64encode(file).decode()
