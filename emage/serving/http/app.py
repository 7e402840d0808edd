"""The routes: the OpenAI images API over any backend that draws, its errors, its events, the playground page."""

import asyncio
import contextlib
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emage.config import nearest
from emage.serving.http import schemas
from emage.serving.http.auth import Gate, GateOptions
from emage.serving.http.openapi import EDITS, GENERATIONS, OTHERS, describe
from emage.serving.request import MODEL, GeneratedImage, Order, Preview, Refusal
from emage.version import __version__

_log = logging.getLogger(__name__)

PAGE = Path(__file__).parent / "page"
READY_S = 2.0  # how long /health waits for a model to say that it is there
# The page's own files and nothing else; its images come as data.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
WRONG = "something went wrong here; the server's log says what"
CODES = {404: "not_found", 405: "method_not_allowed", 408: "timeout", 413: "request_too_large"}


class Backend(Protocol):
    """Who draws: emage.serving.service.Service itself, or replicas of it elsewhere. All of it may raise Refusal."""

    async def draw(self, order: Order) -> list[GeneratedImage]: ...
    def stream(self, order: Order) -> AsyncGenerator[Preview | GeneratedImage, None]: ...
    async def describe(self) -> dict[str, Any]: ...


class Meter(Protocol):
    """Who counts."""

    def request(self, route: str, status: int, seconds: float) -> None: ...
    async def text(self) -> str: ...


@dataclass(frozen=True)
class Options:
    """How the endpoint behaves."""

    timeout_s: float = 60.0  # from a request to its last image
    gate: GateOptions = field(default_factory=GateOptions)


def make_app(backend: Backend, options: Options, meter: Meter | None = None) -> FastAPI:
    """The endpoint as an ASGI application. Without a meter there is no /metrics."""
    app = FastAPIOffline(title="Emage", version=__version__, redoc_url=None)
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    app.state.backend, app.state.options, app.state.since = backend, options, int(time.time())
    app.state.meter = meter
    app.add_api_route("/v1/images/generations", generations, methods=["POST"], **GENERATIONS)
    app.add_api_route("/v1/images/edits", edits, methods=["POST"], **EDITS)
    app.add_api_route("/v1/models", models, methods=["GET"], tags=["models"], **OTHERS)
    app.add_api_route("/v1/models/{name}", model, methods=["GET"], tags=["models"], **OTHERS)
    app.add_api_route("/health", health, methods=["GET"], tags=["operation"], **OTHERS)
    if meter:
        app.add_api_route("/metrics", metrics, methods=["GET"], tags=["operation"], response_class=PlainTextResponse)
    app.add_api_route("/", page, methods=["GET"], include_in_schema=False)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(Gate, options=options.gate)
    if options.gate.origins:  # around the gate, so that those sites' pages can read what it refuses
        app.add_middleware(CORSMiddleware, allow_origins=options.gate.origins, allow_methods=["*"], allow_headers=["*"])
    if meter:
        app.add_middleware(Counted, meter=meter)
    return app


class Counted:
    """Tells the meter of every request: its route, its status, its seconds to the last byte."""

    def __init__(self, app: ASGIApp, meter: Meter):
        self.app, self.meter = app, meter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, started = 499, time.monotonic()  # where no answer begins, the client has gone

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, noting)
        finally:
            route = getattr(scope.get("route"), "path", "other")  # not the path: strangers could invent millions
            self.meter.request(route, status, time.monotonic() - started)


# --- Routes -----------------------------------------------------------------------------------------------------------


async def generations(request: Request, body: schemas.ImageRequest) -> Response:
    """Draws `n` images of a prompt."""
    return await _drawn(request, body, body.to_order(secrets.randbits(32)), "image_generation")


async def edits(request: Request) -> Response:
    """Draws a part of an image anew: where `mask` is transparent or, without transparency, white."""
    form, files = await _form(request)
    try:
        body = schemas.ImageRequest.model_validate_strings(form, strict=True)
    except ValidationError as error:
        raise RequestValidationError(error.errors(include_url=False)) from None
    if "image" not in files:
        raise Refusal(400, "image is required, as a file", "image", "missing_required_parameter")
    order = body.to_order(secrets.randbits(32), files["image"], files.get("mask"))
    return await _drawn(request, body, order, "image_edit")


async def models(request: Request) -> dict[str, Any]:
    """The one model there is, with what it was trained as and how it draws where nothing is asked."""
    return {"object": "list", "data": [await _model(request)]}


async def model(request: Request, name: str) -> dict[str, Any]:
    """The model of this name."""
    _check_model(name)
    return await _model(request)


async def health(request: Request) -> dict[str, str]:
    """200 once a model has drawn its first image, 503 while there is none."""
    await _described(request)
    return {"status": "ok"}


async def metrics(request: Request) -> Response:
    """What was asked for and how long it took, for Prometheus."""
    return PlainTextResponse(await request.app.state.meter.text(), media_type="text/plain; version=0.0.4")


async def page() -> Response:
    """The playground."""
    return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"})


# --- Drawing ----------------------------------------------------------------------------------------------------------


async def _drawn(request: Request, body: schemas.ImageRequest, order: Order, name: schemas.Event) -> Response:
    backend, timeout_s = request.app.state.backend, request.app.state.options.timeout_s
    _check_model(body.model)
    if body.stream:
        return await _streamed(backend, order, name, timeout_s)
    try:
        images = await asyncio.wait_for(backend.draw(order), timeout_s)
    except TimeoutError:
        raise _late(timeout_s) from None
    return JSONResponse(schemas.answer(images).model_dump())


async def _streamed(backend: Backend, order: Order, name: schemas.Event, timeout_s: float) -> Response:
    """The first event is waited for: what is refused until then is a plain error with its status."""
    ends = time.monotonic() + timeout_s
    events = backend.stream(order)
    first = await _next(events, ends, timeout_s)

    async def lines() -> AsyncIterator[str]:
        what = first
        async with contextlib.aclosing(events):  # also where the client has gone: drawing stops
            try:
                while what is not None:
                    data = schemas.event(name, what)
                    yield _line(data["type"], data)
                    what = await _next(events, ends, timeout_s)
            except Refusal as refusal:
                body = schemas.error(refusal.status, refusal.message, refusal.param, refusal.code)
                yield _line("error", {"type": "error", **body})
            except Exception:
                _log.exception("a stream broke off")
                yield _line("error", {"type": "error", **schemas.error(500, WRONG, None, "internal_error")})

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # a proxy that buffers would spoil it
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


async def _next(events: Any, ends: float, timeout_s: float) -> Preview | GeneratedImage | None:
    """The next event, None after the last. Raises Refusal, also where the request's time is over."""
    try:
        return await asyncio.wait_for(anext(events, None), max(0.0, ends - time.monotonic()))
    except TimeoutError:
        raise _late(timeout_s) from None


def _line(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


def _late(timeout_s: float) -> Refusal:
    return Refusal(408, f"no image within {timeout_s:g} s", code="timeout")


# --- Parts ------------------------------------------------------------------------------------------------------------


async def _form(request: Request) -> tuple[dict[str, str], dict[str, bytes]]:
    """Fields and files of a form. An image may be called image[] as well: clients that send several do so."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise Refusal(400, "the body must be multipart/form-data", code="invalid_form")
    fields, files = {}, {}
    async with request.form(max_files=4, max_fields=40, max_part_size=100_000) as form:
        for key, value in form.multi_items():
            name = key.removesuffix("[]")
            if name in fields or name in files:
                raise Refusal(400, f"{name} is given twice", name, "invalid_value")
            if isinstance(value, UploadFile):
                files[name] = await value.read()
            else:
                fields[name] = value
    if unknown := sorted(set(files) - {"image", "mask"}):
        raise Refusal(400, f"unknown file {unknown[0]!r}: only image and mask", unknown[0], "unknown_parameter")
    return fields, files


async def _model(request: Request) -> dict[str, Any]:
    made = {"id": MODEL, "object": "model", "created": request.app.state.since, "owned_by": "emage"}
    return made | await _described(request)


async def _described(request: Request) -> dict[str, Any]:
    try:
        return await asyncio.wait_for(request.app.state.backend.describe(), READY_S)
    except TimeoutError:
        raise Refusal(503, "no model is ready yet; try again in a moment", code="not_ready", retry_s=5) from None


def _check_model(name: str | None) -> None:
    if name not in (None, MODEL):
        raise Refusal(404, f"no model {name!r} here, only {MODEL!r}", "model", "model_not_found")


# --- Errors -----------------------------------------------------------------------------------------------------------


def _answer(status: int, message: str, param: str | None = None, code: str | None = None, retry_s: int = 0) -> Response:
    headers = {"Retry-After": str(retry_s)} if retry_s else None
    return JSONResponse(schemas.error(status, message, param, code), status, headers)


async def _refuse(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _answer(error.status, error.message, error.param, error.code, error.retry_s)


async def _refuse_body(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"] if isinstance(part, str)).removeprefix("body").lstrip(".")
    message, code = f"{param or 'body'}: {first['msg']}", "invalid_value"
    if first["type"] == "extra_forbidden":
        message = f"unknown parameter {param[:100]!r}{nearest(param[:100], list(schemas.ImageRequest.model_fields))}"
        code = "unknown_parameter"
    elif first["type"] == "missing":
        message, code = f"{param or 'a JSON body'} is required", "missing_required_parameter"
    elif first["type"] == "json_invalid":
        message, param, code = f"the body is not JSON: {first['ctx']['error']}", "", "invalid_json"
    return _answer(400, message, param[:100] or None, code)


async def _refuse_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = CODES.get(error.status_code, "invalid_request")
    return _answer(error.status_code, f"{request.method} {request.url.path}: {error.detail}"[:500], code=code)


async def _fail(_: Request, error: Exception) -> Response:
    return _answer(500, WRONG, code="internal_error")


HANDLERS: dict[Any, Any] = {
    Refusal: _refuse,
    RequestValidationError: _refuse_body,
    HTTPException: _refuse_route,
    Exception: _fail,
}
