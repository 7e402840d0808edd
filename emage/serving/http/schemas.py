"""The schemas of the HTTP API's answers: images, stream events, the model and errors, with OpenAI's fields and our own.

The schema of a request is emage/serving/http/parameters/schema.py.
"""

import base64
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, Field

from emage.serving.error_codes import ERROR_CODES, error_type
from emage.serving.request import Format, GeneratedImage, PreviewImage

EventPrefix = Literal["image_generation", "image_edit"]


class ImageData(BaseModel):
    """An image and the seed that generates it again."""

    b64_json: str | None = Field(default=None, description="The file, in base64.")
    url: str | None = Field(
        default=None, description="The file as a data URL: in place of `b64_json`, see `response_format`."
    )
    seed: int = Field(description="The seed that generates the same image again.")


class TokenKinds(BaseModel):
    """Tokens by kind."""

    text_tokens: int = Field(description="Of the prompts: those that were read, start and end included.")
    image_tokens: int = Field(description="Of the edited image, or of those that were returned (without candidates).")


class Usage(BaseModel):
    """Numbers of tokens."""

    input_tokens: int = Field(description="Tokens of prompt and edited image.")
    input_tokens_details: TokenKinds = Field(description="The same by kind.")
    output_tokens: int = Field(description="Tokens of the images.")
    output_tokens_details: TokenKinds = Field(description="The same by kind.")
    total_tokens: int = Field(description="Their sum.")


_TRUNCATED = "True if the prompt was truncated: it is longer than the text encoder reads."
_WARNINGS = "One line for each parameter without effect, and for each truncated prompt."
_IDENTIFIER = "`safety_identifier` of the request, or its `user`; missing if it has none."


class ImageResponse(BaseModel):
    """The answer of both image routes without `stream`."""

    created: int = Field(description="Unix time in seconds.")
    data: list[ImageData] = Field(description="The images, in the order of their seeds.")
    output_format: Format = Field(description="Format of the files.")
    size: str = Field(description="WIDTHxHEIGHT.")
    background: Literal["opaque"] = Field(default="opaque", description="Always the same.")
    prompt_cut: bool = Field(description=_TRUNCATED)
    warnings: list[str] = Field(description=_WARNINGS)
    usage: Usage = Field(description="Tokens of the request and its images.")
    safety_identifier: str | None = Field(None, description=_IDENTIFIER)


class ImageEvent(BaseModel):
    """The fields of both image events."""

    type: str = Field(description="Name of the event.")
    b64_json: str = Field(description="The file, in base64.")
    created_at: int = Field(description="Unix time in seconds.")
    size: str = Field(description="WIDTHxHEIGHT.")
    output_format: Format = Field(
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
    warnings: list[str] = Field(description=_WARNINGS)
    usage: Usage = Field(description="Tokens of the request and this image.")
    safety_identifier: str | None = Field(None, description=_IDENTIFIER)


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
    data: list[ModelDescription] = Field(description="The one model, once for each of its names.")


class ErrorBody(BaseModel):
    """An error."""

    message: str = Field(description="One line: what is wrong and what to do.")
    type: str = Field(description="OpenAI's name for the kind of error; it follows from the status.")
    param: str | None = Field(description="The field that is at fault, or null.")
    code: str = Field(description="One of the error codes.")


class ErrorResponse(BaseModel):
    """Every answer other than 200."""

    error: ErrorBody = Field(description="The error.")


@dataclass(frozen=True)
class RequestNotes:
    """What an answer says of its request."""

    as_url: bool = False  # images are data URLs
    warnings: Sequence[str] = ()
    safety_identifier: str | None = None


def image_response(images: list[GeneratedImage], notes: RequestNotes) -> dict[str, Any]:
    """Return the answer (ImageResponse) for the finished images of a request, in any order."""
    ordered = sorted(images, key=lambda image: image.index)
    first = ordered[0]
    return ImageResponse(
        created=int(time.time()),
        data=[_image_data(image, notes.as_url) for image in ordered],
        output_format=first.format,
        size=first.size,
        prompt_cut=first.prompt_truncated,
        warnings=[*notes.warnings, *first.warnings],
        usage=_usage(ordered),
        safety_identifier=notes.safety_identifier,
    ).model_dump(exclude_none=True)


def stream_event(prefix: EventPrefix, image: PreviewImage | GeneratedImage, notes: RequestNotes) -> dict[str, Any]:
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
        fields |= {"step": image.steps, "known": 1.0, "prompt_cut": image.prompt_truncated, "usage": _usage([image])}
        fields |= {"warnings": [*notes.warnings, *image.warnings], "safety_identifier": notes.safety_identifier}
        return CompletedEvent(type=f"{prefix}.completed", **fields).model_dump(exclude_none=True)
    progress = {"step": image.step, "known": round(image.unmasked, 4), "partial_image_index": image.preview_index}
    return PartialImageEvent(type=f"{prefix}.partial_image", **fields, **progress).model_dump()


def _image_data(image: GeneratedImage, as_url: bool) -> ImageData:
    text = _base64(image.file)
    if as_url:
        return ImageData(url=f"data:image/{image.format};base64,{text}", seed=image.seed)
    return ImageData(b64_json=text, seed=image.seed)


def _usage(images: Sequence[GeneratedImage]) -> Usage:
    """Return the tokens of the images of one request, whose input is read once."""
    tokens = images[0].tokens
    num_input, num_output = tokens.text + tokens.input_image, tokens.output_image * len(images)
    return Usage(
        input_tokens=num_input,
        input_tokens_details=TokenKinds(text_tokens=tokens.text, image_tokens=tokens.input_image),
        output_tokens=num_output,
        output_tokens_details=TokenKinds(text_tokens=0, image_tokens=num_output),
        total_tokens=num_input + num_output,
    )


def error_body(code: str, message: str, param: str | None = None) -> dict[str, Any]:
    """Return the body of an error; the code gives its `type`."""
    kind = error_type(ERROR_CODES[code].status)
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _base64(file: bytes) -> str:
    return base64.b64encode(file).decode()
