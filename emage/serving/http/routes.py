"""The routes: the OpenAI images API over any backend that generates, with its streams; and the playground page."""

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse

from emage.config.fields import shown_value
from emage.serving.http import schemas
from emage.serving.http.backend import Backend
from emage.serving.http.error_handlers import INTERNAL_ERROR_TEXT
from emage.serving.http.parameters import effects, reading
from emage.serving.http.parameters.schema import ImageRequest
from emage.serving.request import GeneratedImage, GenerationRequest, PreviewImage, RequestError

_log = logging.getLogger(__name__)

PAGE_FOLDER = Path(__file__).parent / "page"
READY_TIMEOUT_S = 2.0  # how long /health and /v1/models wait for a model's description
# The page loads its own files and nothing else; its images are data and blob URLs.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
# The OpenAPI page has one script of its own, whose sha256 is filled in, and sets styles from its scripts.
DOCS_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'sha256-{}'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)


async def generations(http: Request) -> Response:
    """Generate `n` images of a prompt."""
    body = await reading.from_json(http)
    return await _respond(http, body, body.to_generation_request(secrets.randbits(32)), "image_generation")


async def edits(http: Request) -> Response:
    """Regenerate a part of an image: where `mask` is transparent, or white in a black and white mask."""
    body, files = await reading.from_edit(http)
    request = body.to_generation_request(secrets.randbits(32), files["image"], files.get("mask"))
    return await _respond(http, body, request, "image_edit")


async def models(http: Request) -> dict[str, Any]:
    """List the one model by each of its names: its method, training step, image size, and default sampling settings."""
    described = await _describe(http)
    return {"object": "list", "data": [_with_name(http, described, name) for name in _model_names(http)]}


async def model(http: Request, name: str) -> dict[str, Any]:
    """Describe the model of this name."""
    _check_model_name(http, name)
    return _with_name(http, await _describe(http), name)


async def health(http: Request) -> dict[str, str]:
    """Answer 200 once a model has generated its first image, 503 while no model is ready."""
    await _describe(http)
    return {"status": "ok"}


async def metrics(http: Request) -> Response:
    """Return the metrics of all replicas and frontends in Prometheus' text format."""
    return PlainTextResponse(await http.app.state.metrics.text(), media_type="text/plain; version=0.0.4")


async def page() -> Response:
    """Return the playground page."""
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache"}
    return FileResponse(PAGE_FOLDER / "index.html", headers=headers)


async def docs(http: Request) -> Response:
    """Return the OpenAPI page, whose files are the endpoint's own."""
    root = http.scope.get("root_path", "")
    files = f"{root}/static-offline-docs"
    page = get_swagger_ui_html(
        openapi_url=f"{root}/openapi.json",
        title="Emage",
        swagger_js_url=f"{files}/swagger-ui-bundle.js",
        swagger_css_url=f"{files}/swagger-ui.css",
        swagger_favicon_url=f"{files}/favicon.png",
    )
    (script,) = _SCRIPT.findall(bytes(page.body))
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    page.headers["Content-Security-Policy"] = DOCS_SECURITY_POLICY.format(digest)
    return page


# --- Answers and streams ---


async def _respond(
    http: Request, body: ImageRequest, request: GenerationRequest, prefix: schemas.EventPrefix
) -> Response:
    backend, timeout_s = http.app.state.backend, http.app.state.options.timeout_s
    _check_model_name(http, body.model)
    identifier = body.safety_identifier or body.user
    notes = schemas.RequestNotes(body.wants_urls(request.image is not None), effects.warnings(body), identifier)
    try:
        if body.stream:
            return await _stream(backend, request, prefix, notes, timeout_s)
        images = await asyncio.wait_for(backend.generate(request), timeout_s)
    except TimeoutError:
        raise _timeout_error(timeout_s) from None
    except RequestError as error:
        raise body.renamed(error) from None
    return JSONResponse(schemas.image_response(images, notes))


async def _stream(
    backend: Backend,
    request: GenerationRequest,
    prefix: schemas.EventPrefix,
    notes: schemas.RequestNotes,
    timeout_s: float,
) -> Response:
    """Stream the events of a request. An error before the first event is a plain answer with its status."""
    deadline = time.monotonic() + timeout_s
    events = backend.stream(request)
    first = await _next_event(events, deadline, timeout_s)

    async def lines() -> AsyncIterator[str]:
        event = first
        async with contextlib.aclosing(events):  # a client that disconnects cancels the generation
            try:
                while event is not None:
                    data = schemas.stream_event(prefix, event, notes)
                    yield _sse(data["type"], data)
                    event = await _next_event(events, deadline, timeout_s)
            except RequestError as error:
                yield _sse("error", {"type": "error", **schemas.error_body(error.code, error.message, error.param)})
            except Exception:
                _log.exception("a stream ended with an error")
                yield _sse("error", {"type": "error", **schemas.error_body("internal_error", INTERNAL_ERROR_TEXT)})

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # a proxy must not buffer the events
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


async def _next_event(events: Any, deadline: float, timeout_s: float) -> PreviewImage | GeneratedImage | None:
    """Return the next event, None after the last. Raises RequestError, also if the request's time is over."""
    try:
        return await asyncio.wait_for(anext(events, None), max(0.0, deadline - time.monotonic()))
    except TimeoutError:
        raise _timeout_error(timeout_s) from None


def _sse(name: str, data: dict[str, Any]) -> str:
    """Return a server-sent event."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _timeout_error(timeout_s: float) -> RequestError:
    return RequestError("timeout", f"no image within {timeout_s:g} s")


# --- The model's description ---


def _with_name(http: Request, described: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the fields of schemas.ModelDescription."""
    return {"id": name, "object": "model", "created": http.app.state.created, "owned_by": "emage", **described}


async def _describe(http: Request) -> dict[str, Any]:
    """Return the backend's description of its model. Raises RequestError if no model is ready."""
    try:
        return await asyncio.wait_for(http.app.state.backend.describe(), READY_TIMEOUT_S)
    except TimeoutError:
        raise RequestError("not_ready", "no model is ready yet; try again in a moment", retry_s=5) from None


def _model_names(http: Request) -> Sequence[str]:
    """Return the names of the model: the one that it is served by, then its aliases."""
    return http.app.state.options.model_names


def _check_model_name(http: Request, name: str | None) -> None:
    names = _model_names(http)
    if name is not None and name not in names:
        served = f"only {', '.join(map(repr, names))} is served: send it, or leave model out"
        raise RequestError("model_not_found", f"unknown model {shown_value(name)!r}: {served}", "model")
