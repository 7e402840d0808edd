"""The endpoint's OpenAPI description: its examples, answers, error codes and the form of an edit."""

import warnings
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.responses import PlainTextResponse

from emage.serving.error_codes import ERROR_CODES
from emage.serving.http import schemas
from emage.serving.http.parameters.image_references import ImageReference
from emage.serving.http.parameters.schema import EXAMPLE_PROMPT, ImageRequest

DESCRIPTION = """Parallel text-to-image generation with the OpenAI images API: an OpenAI client with another base URL
works unchanged. `GET /` is a playground page.

The same prompt, seed and settings give the same image, whatever else is in its batch. With `stream`, a preview arrives
after every decoding step."""


def _errors() -> dict[int | str, dict[str, Any]]:
    """Return every status of ERROR_CODES, described by its codes."""
    texts: dict[int | str, list[str]] = {}
    for code, error in ERROR_CODES.items():
        texts.setdefault(error.status, []).append(f"`{code}`: {error.meaning}")
    return {
        status: {"model": schemas.ErrorResponse, "description": "\n\n".join(text)} for status, text in texts.items()
    }


# Server-sent events: the data of each is JSON (schemas.PartialImageEvent, schemas.CompletedEvent).
_EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
_STREAM = {"schema": _EVENT, "example": 'event: image_generation.partial_image\ndata: {"step": 1, ...}\n\n'}
_IMAGES: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.ImageResponse, "description": "the images", "content": {"text/event-stream": _STREAM}}
}
_EXAMPLES = {
    "one": {"summary": "One image", "value": {"prompt": EXAMPLE_PROMPT, "seed": 7}},
    "several": {
        "summary": "Four images, each the best of three candidates",
        "value": {"prompt": EXAMPLE_PROMPT, "n": 4, "candidates": 3},
    },
    "stream": {
        "summary": "A preview after every decoding step",
        "value": {"prompt": EXAMPLE_PROMPT, "seed": 7, "stream": True},
    },
    "settings": {
        "summary": "Other sampling settings",
        "value": {"prompt": EXAMPLE_PROMPT, "seed": 7, "steps": 8, "order": "random", "temperature": 0.9},
    },
}


def _generation_body() -> dict[str, Any]:
    return {"schema": {**ImageRequest.model_json_schema(), "title": "ImageRequest"}, "examples": _EXAMPLES}


def _edit_form() -> dict[str, Any]:
    """Return the fields of an edit: two files, and the parameters of a generation."""
    file = {"type": "string", "format": "binary"}
    return _edit_body("EditRequest", {"image": file, "mask": file})


def _edit_json() -> dict[str, Any]:
    """Return the body of an edit in JSON: data URLs, and the parameters of a generation."""
    reference = ImageReference.model_json_schema()
    images = {"type": "array", "items": reference, "minItems": 1, "maxItems": 1}
    return _edit_body("EditRequestJson", {"images": images, "mask": reference})


def _edit_body(title: str, images: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an edit's body. The first of its `images` is required."""
    schema = ImageRequest.model_json_schema()
    required = ["prompt", next(iter(images))]
    return {**schema, "title": title, "properties": {**images, **schema["properties"]}, "required": required}


# The OpenAPI arguments of each route.
GENERATIONS: dict[str, Any] = {
    "tags": ["images"],
    "responses": {**_IMAGES, **_errors()},
    "openapi_extra": {"requestBody": {"required": True, "content": {"application/json": _generation_body()}}},
}
EDITS: dict[str, Any] = {
    "tags": ["images"],
    "responses": {**_IMAGES, **_errors()},
    "openapi_extra": {
        "requestBody": {
            "required": True,
            "content": {"multipart/form-data": {"schema": _edit_form()}, "application/json": {"schema": _edit_json()}},
        }
    },
}
MODELS: dict[str, Any] = {
    "tags": ["models"],
    "responses": {200: {"model": schemas.ModelList, "description": "the model"}, **_errors()},
}
MODEL: dict[str, Any] = {
    "tags": ["models"],
    "responses": {200: {"model": schemas.ModelDescription, "description": "the model"}, **_errors()},
}
HEALTH: dict[str, Any] = {"tags": ["operation"], "responses": _errors()}
METRICS: dict[str, Any] = {"tags": ["operation"], "response_class": PlainTextResponse}


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the endpoint's OpenAPI description, without FastAPI's own 422, which is not an answer of this API."""
    if app.openapi_schema is None:
        with warnings.catch_warnings():  # GET and HEAD of a route have one name
            warnings.simplefilter("ignore")
            description = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes)
        for methods in description["paths"].values():
            methods.pop("head", None)
            for operation in methods.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            description["components"]["schemas"].pop(name, None)
        description["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        description["security"] = [{}, {"key": []}]  # {}: an endpoint without a key
        app.openapi_schema = description
    return app.openapi_schema
