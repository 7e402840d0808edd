"""What runs in the process of Ray Serve's HTTP proxy: the parser with its limits, and a middleware.

Serve finds `middlewares` by an environment variable of the proxy's process (`launch.PROXY_HOOK`), before it starts its
HTTP server: on one machine `launch.start_ray` sets it, on a cluster it must be set when Ray is started on a node. All
applications of the cluster share the proxy.

The middleware rejects what is too large before a Frontend is asked, and JSON that does not arrive in time. If no
Frontend answers a request (it was lost meanwhile, the endpoint is being stopped, a queue is full), Serve answers with
plain text or not at all: the middleware replaces that by an error of the API. It also removes two request headers by
which a client could disable Serve's timeout, or keep a request running after it has disconnected.
"""

import uvicorn.config
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emage.config.serving import MAX_UPLOAD_MB
from emage.serving.http.auth import is_own_machine
from emage.serving.http.error_handlers import CODES_BY_STATUS, error_answer
from emage.serving.http.transport import bodies, protocol

# The endpoint's own limit of edits may be lower; this process does not know it.
LIMITS = bodies.BodyLimits(max_upload_bytes=int(MAX_UPLOAD_MB * 1e6))
SERVES_ROUTES = "/-/routes"  # Serve's own: the names of all applications
REMOVED_HEADERS = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
NO_ANSWER = 0  # instead of a status: Serve ended the request without an answer
# Serve's status -> error code and message. Every path is the endpoint's, so Serve's 404 means that no endpoint runs.
PROXY_ERRORS = {
    NO_ANSWER: ("replica_lost", "the process that handled this request was lost; try again"),
    404: ("not_ready", "the endpoint is starting or stopping; try again in a moment"),
    408: ("timeout", "no answer in time"),
    429: ("rate_limit_exceeded", "too many requests are open; try again in a moment"),
    503: ("not_ready", "the endpoint is starting or stopping; try again in a moment"),
}


def middlewares() -> list[Middleware]:
    """Give Serve's HTTP server the parser with limits, and return the middlewares for its proxy."""
    uvicorn.config.HTTP_PROTOCOLS["auto"] = protocol.PATH  # Serve lets uvicorn choose, and has no option for it
    return [Middleware(ApiErrorMiddleware)]


class ApiErrorMiddleware:
    """Rejects requests that are too large, and replaces Serve's own answers with errors of the API."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self._room = bodies.BodyRoom()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if rejection := bodies.find_header_error(scope, LIMITS):
            return await error_answer(*rejection)(scope, receive, send)
        if scope["path"] == SERVES_ROUTES and not is_own_machine(scope):
            return await error_answer("not_found", f"{SERVES_ROUTES} is for this machine alone")(scope, receive, send)
        leave = await self._room.enter(scope, LIMITS)
        if leave is None:
            message = "too many uploads arrive; try again in a moment"
            return await error_answer("rate_limit_exceeded", message, retry_s=1)(scope, receive, send)
        try:
            bounded = bodies.stop_reading(scope, receive, LIMITS, leave)
            await self._ask_serve(scope, await bodies.read_small(scope, bounded, LIMITS), send)
        except bodies.BodyError as error:
            await error_answer(CODES_BY_STATUS[error.status_code], error.detail)(scope, receive, send)
        finally:
            leave()

    async def _ask_serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Serve answer; replace its own answers."""
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0].lower() not in REMOVED_HEADERS]}
        serve_status: int | None = NO_ANSWER  # the status of an answer of Serve's own; None: a Frontend answers
        serve_text = b""

        async def send_unless_serves_own(message: Message) -> None:
            nonlocal serve_status, serve_text
            if message["type"] == "http.response.start":
                kind = dict(message.get("headers", [])).get(b"content-type", b"")
                is_serves_own = message["status"] in PROXY_ERRORS and kind.startswith(b"text/plain")
                serve_status = message["status"] if is_serves_own else None
            if serve_status is None:
                await send(message)
            else:
                serve_text += message.get("body", b"")

        await self.app(scope, receive, send_unless_serves_own)
        if serve_status is not None:
            is_queue_full = serve_status == 503 and b"backpressure" in serve_text  # Serve's BackPressureError
            code, message = PROXY_ERRORS[429 if is_queue_full else serve_status]
            await error_answer(code, message, retry_s=0 if code == "timeout" else 1)(scope, receive, send)
