"""The endpoint's OpenAPI description: examples, answers, the form of an edit."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from emage.serving.http import schemas

ABOUT = """Text-to-image in parallel, in the shape of the OpenAI images API: an OpenAI client with another base URL
works unchanged. `GET /` is a page to try it on.

The same prompt, seed and settings give the same image, whatever else is being drawn. With `stream`, every pass over
the image can be watched."""

_STATUSES = {
    400: "the request is wrong; `param` says where",
    401: "the API key is missing or wrong",
    403: "without an API key, pages and hosts other than this machine's own",
    404: "no such model",
    408: "not done in time, or the request came too slowly",
    413: "the request is too large",
    429: "too many are waiting; Retry-After says when to come again",
    500: "drawing failed",
    503: "no model is ready",
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.ErrorResponse, "description": text} for status, text in _STATUSES.items()
}
# Of each event. Its data is JSON: emage/serving/http/schemas.py, event().
_EVENT = {"type": "object", "properties": {"event": {"type": "string"}, "data": {"type": "string"}}}
_STREAM = {"schema": _EVENT, "example": 'event: image_generation.partial_image\ndata: {"step": 1, ...}\n\n'}
_DRAWN: dict[int | str, dict[str, Any]] = {
    200: {"model": schemas.ImageResponse, "description": "the images", "content": {"text/event-stream": _STREAM}}
}
_EXAMPLES = {
    "one": {"summary": "One image", "value": {"prompt": schemas.PROMPT, "seed": 7}},
    "several": {
        "summary": "Four, each the best of three",
        "value": {"prompt": schemas.PROMPT, "n": 4, "candidates": 3},
    },
    "stream": {"summary": "Watch it form", "value": {"prompt": schemas.PROMPT, "seed": 7, "stream": True}},
    "settings": {
        "summary": "Other settings",
        "value": {"prompt": schemas.PROMPT, "seed": 7, "steps": 8, "order": "random", "temperature": 0.9},
    },
}

GENERATIONS: dict[str, Any] = {
    "tags": ["images"],
    "responses": {**_DRAWN, **_ERRORS},
    "openapi_extra": {"requestBody": {"content": {"application/json": {"examples": _EXAMPLES}}}},
}


OTHERS: dict[str, Any] = {"responses": _ERRORS}


def _form() -> dict[str, Any]:
    """The fields of an edit: those of a generation, and two files."""
    schema = schemas.ImageRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    file = {"type": "string", "format": "binary"}
    properties = {"image": file, "mask": file, **schema["properties"]}
    return {**schema, "title": "EditRequest", "properties": properties, "required": ["prompt", "image"]}


EDITS: dict[str, Any] = {
    "tags": ["images"],
    "responses": {**_DRAWN, **_ERRORS},
    "openapi_extra": {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": _form()}}}},
}


def describe(app: FastAPI) -> dict[str, Any]:
    """The description, made once. FastAPI's own 422 is no answer of ours."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=ABOUT, routes=app.routes)
        for methods in schema["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{}, {"key": []}]  # where the endpoint was started with one
        app.openapi_schema = schema
    return app.openapi_schema
