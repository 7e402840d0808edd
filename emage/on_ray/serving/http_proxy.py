"""What Ray Serve's HTTP proxy answers by itself, in the API's form: a middleware in the proxy's process.

Serve has plain text, or nothing at all, for requests that no Frontend answered: one that was lost meanwhile, an
endpoint that is being stopped, a proxy that is full. It looks for `middlewares` by an environment variable of the
proxy's process (`launch.PROXY_HOOK`): on one machine `launch.start_ray` sets it, on a cluster whoever starts Ray on the
nodes.

Two headers by which a client could lift Serve's deadline, or ask it to go on for a client that has gone, are taken
away.
"""

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emage.serving.http import schemas

LIFTED = (b"x-request-timeout-seconds", b"x-request-disconnect-disabled")
# Status that Serve gives -> status, words and code that clients get. All paths are the endpoint's, so that Serve's 404
# means that there is none (any more). 0: Serve gives no answer at all.
WORDS = {
    0: (503, "the process that had this request was lost; try again", "replica_lost"),
    404: (503, "the endpoint is starting or stopping; try again in a moment", "not_ready"),
    408: (408, "no answer in time", "timeout"),
    429: (429, "too many requests are open; try again in a moment", "rate_limit_exceeded"),
    503: (503, "too many requests are open, or the endpoint is starting; try again in a moment", "not_ready"),
}


def middlewares() -> list[Middleware]:
    """What Serve puts around its proxy."""
    return [Middleware(ApiForm)]


class ApiForm:
    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope = {**scope, "headers": [pair for pair in scope["headers"] if pair[0].lower() not in LIFTED]}
        status = 0  # of the answer; one of Serve's own is held back

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                kind = dict(message.get("headers", [])).get(b"content-type", b"")
                own = message["status"] in WORDS and kind.startswith(b"text/plain")
                status = -message["status"] if own else message["status"]
            if status > 0:
                await send(message)

        await self.app(scope, receive, watch)
        if status <= 0:
            answered, message, code = WORDS[-status]
            headers = {"Retry-After": "1"} if answered in (429, 503) else None
            await JSONResponse(schemas.error(answered, message, None, code), answered, headers)(scope, receive, send)
