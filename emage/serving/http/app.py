"""The endpoint as an ASGI application: it connects routes, error handlers, access rules and metrics."""

import time
from dataclasses import dataclass, field

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emage.serving.http import openapi, routes
from emage.serving.http.auth import AccessOptions, AuthMiddleware
from emage.serving.http.backend import Backend, MetricsSink
from emage.serving.http.error_handlers import HANDLERS
from emage.serving.http.transport.bodies import EDITS_PATH
from emage.serving.request import MODEL_NAME
from emage.version import __version__


@dataclass(frozen=True)
class Options:
    """The options of the endpoint."""

    timeout_s: float = 60.0  # from a request to its last image
    access: AccessOptions = field(default_factory=AccessOptions)
    model_names: tuple[str, ...] = (MODEL_NAME,)  # by which requests may name the model; the first is its own


def make_app(backend: Backend, options: Options, metrics: MetricsSink | None = None) -> FastAPI:
    """Make the endpoint.

    Args:
        backend: Generates the images.
        options: Timeout, access rules and names of the model.
        metrics: Records the requests; None: the endpoint has no /metrics.
    """
    app = FastAPIOffline(title="Emage", version=__version__, docs_url=None, redoc_url=None)
    app.openapi = lambda: openapi.describe(app)  # type: ignore[method-assign]
    app.state.backend, app.state.options, app.state.metrics = backend, options, metrics
    app.state.created = int(time.time())
    _add_routes(app, with_metrics=metrics is not None)
    for kind, handler in HANDLERS.items():
        app.add_exception_handler(kind, handler)
    app.add_middleware(AuthMiddleware, options=options.access)
    if origins := options.access.origins:  # it wraps the access rules, so that those sites' pages can read a rejection
        app.add_middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    if metrics:
        app.add_middleware(MetricsMiddleware, metrics=metrics)
    return app


def _add_routes(app: FastAPI, with_metrics: bool) -> None:
    app.add_api_route("/v1/images/generations", routes.generations, methods=["POST"], **openapi.GENERATIONS)
    app.add_api_route(EDITS_PATH, routes.edits, methods=["POST"], **openapi.EDITS)
    app.add_api_route("/v1/models", routes.models, methods=["GET"], **openapi.MODELS)
    app.add_api_route("/v1/models/{name}", routes.model, methods=["GET"], **openapi.MODEL)
    app.add_api_route("/health", routes.health, methods=["GET"], **openapi.HEALTH)
    if with_metrics:
        app.add_api_route("/metrics", routes.metrics, methods=["GET"], **openapi.METRICS)
    app.add_api_route("/docs", routes.docs, methods=["GET"], include_in_schema=False)
    app.add_api_route("/", routes.page, methods=["GET"], include_in_schema=False)
    for route in app.routes:
        if isinstance(route, APIRoute) and route.methods and "GET" in route.methods:
            route.methods.add("HEAD")  # the HTTP server leaves the body out
    app.mount("/page", StaticFiles(directory=routes.PAGE_FOLDER), name="page")


class MetricsMiddleware:
    """Records every request: its route, its status, its seconds to the last byte."""

    def __init__(self, app: ASGIApp, metrics: MetricsSink):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, started = 499, time.monotonic()  # 499: the client disconnected before an answer began

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self.app(scope, receive, send_and_note_status)
        finally:
            route = getattr(
                scope.get("route"), "path", "other"
            )  # the path itself would be a label with any number of values
            self.metrics.record_request(route, status, time.monotonic() - started)
