"""Who may ask, and how much: an ASGI middleware in front of every route.

Without an API key the endpoint is for this machine alone: only loopback addresses are answered, and no page of another
site may use it from a visitor's browser (neither under a Host that only resolves to here, nor from another Origin).
"""

import asyncio
import hashlib
import hmac
import ipaddress
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emage.serving.http import schemas

OPEN = ("/", "/health", "/docs", "/openapi.json")  # and what lies below OPEN_BELOW: nothing secret, no work
OPEN_BELOW = ("/page/", "/static-offline-docs/", "/docs/")
HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


@dataclass(frozen=True)
class GateOptions:
    """What the gate lets in."""

    key_sha256: str | None = None  # of the API key; none: this machine alone
    origins: tuple[str, ...] = ()  # of other sites whose pages may use the endpoint
    max_body: int = 20_000_000  # bytes of a request
    body_timeout_s: float = 20.0  # for all of it


class BodyError(HTTPException):
    """A body that is too large or too slow. FastAPI hands HTTP's own exceptions on as they are."""


class Gate:
    def __init__(self, app: ASGIApp, options: GateOptions):
        self.app, self.options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if refusal := self._refuse(scope, headers):
            status, message, code = refusal
            extra = {"WWW-Authenticate": "Bearer"} if status == 401 else None
            return await JSONResponse(schemas.error(status, message, None, code), status, extra)(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *HEADERS]}
            await send(message)

        await self.app(scope, self._counted(receive), send_with_headers)

    def _refuse(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, str] | None:
        """Status, message and code where the request is not let in."""
        options = self.options
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return 400, "Content-Length is no number", "invalid_request"
        if int(length) > options.max_body:
            return 413, _too_large(options), "request_too_large"
        if options.key_sha256 is None:
            return self._refuse_stranger(scope, headers)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if path in OPEN or path.startswith(OPEN_BELOW):
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode("latin-1")).hexdigest()
        if scheme.lower() == "bearer" and hmac.compare_digest(given, options.key_sha256):
            return None
        return 401, "this endpoint wants an API key: Authorization: Bearer KEY", "invalid_api_key"

    def _refuse_stranger(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, str] | None:
        peer = (scope.get("client") or ("",))[0]
        if not is_loopback(peer):
            return 401, "without an API key this endpoint answers its own machine alone", "invalid_api_key"
        host = headers.get("host", "")
        if not is_loopback(_split(f"//{host}").hostname or ""):
            return 403, "without an API key this endpoint is reached as localhost alone", "host_not_allowed"
        origin = headers.get("origin")
        if origin is not None and origin not in self.options.origins and _split(origin).netloc != host:
            return 403, "pages of other sites may not use this endpoint (access.origins)", "origin_not_allowed"
        return None

    def _counted(self, receive: Receive) -> Receive:
        """`receive` with the body's bytes and seconds limited."""
        options, read, ends, whole = self.options, 0, time.monotonic() + self.options.body_timeout_s, False

        async def limited() -> Message:
            nonlocal read, whole
            if whole:  # from here on only a disconnect can come
                return await receive()
            try:
                message: Any = await asyncio.wait_for(receive(), max(0.0, ends - time.monotonic()))
            except TimeoutError:
                raise BodyError(408, f"the request was not whole within {options.body_timeout_s:g} s") from None
            read += len(message.get("body", b""))
            if read > options.max_body:
                raise BodyError(413, _too_large(options))
            whole = not message.get("more_body", False)
            return message

        return limited


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _split(url: str) -> SplitResult:
    """The parts of a URL; of what is none, nothing."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _too_large(options: GateOptions) -> str:
    return f"the request is larger than {options.max_body / 1e6:g} MB"
