"""Access rules: an ASGI middleware in front of every route, for authentication, origins, and the size of a request.

Without an API key the endpoint serves its own machine only: it answers loopback addresses. No page of another site may
use it from a browser on this machine, neither under a host name that resolves to it nor from another Origin.
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
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emage.serving.http.error_handlers import error_answer
from emage.serving.limits import BODY_TIMEOUT_S

PUBLIC_PATHS = (
    "/",
    "/health",
    "/docs",
    "/openapi.json",
)  # need no key: they show nothing secret and give the model no work
PUBLIC_PREFIXES = ("/page/", "/static-offline-docs/", "/docs/")
SECURITY_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


@dataclass(frozen=True)
class AccessOptions:
    """The access rules."""

    key_sha256: str | None = None  # of the API key; None: no key, and only this machine is answered
    origins: tuple[str, ...] = ()  # of other sites whose pages may use the endpoint
    max_body_bytes: int = 20_000_000  # of a request
    body_timeout_s: float = BODY_TIMEOUT_S  # within which a request's body must be complete


class BodyError(HTTPException):
    """A body that is too large or too slow. It is an HTTPException because FastAPI passes only those on unchanged."""


class AuthMiddleware:
    """Rejects requests that break the access rules, and adds SECURITY_HEADERS to the answers of all others."""

    def __init__(self, app: ASGIApp, options: AccessOptions):
        self.app, self.options = app, options

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        if rejection := self._find_rejection(scope, headers):
            code, message = rejection
            challenge = {"WWW-Authenticate": "Bearer"} if code == "invalid_api_key" else None
            return await error_answer(code, message, headers=challenge)(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *SECURITY_HEADERS]}
            await send(message)

        await self.app(scope, self._limit_body(receive), send_with_headers)

    def _find_rejection(self, scope: Scope, headers: dict[str, str]) -> tuple[str, str] | None:
        """Return the error code and message of a request that breaks a rule, else None."""
        options = self.options
        length = headers.get("content-length", "0")
        if not length.isdecimal():
            return "invalid_request", "Content-Length is not a number"
        if int(length) > options.max_body_bytes:
            return "request_too_large", _too_large_text(options)
        if options.key_sha256 is None:
            return self._find_rejection_without_key(scope, headers)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES):
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode("latin-1")).hexdigest()
        if scheme.lower() == "bearer" and hmac.compare_digest(given, options.key_sha256):
            return None
        return "invalid_api_key", "this endpoint needs an API key: Authorization: Bearer KEY"

    def _find_rejection_without_key(self, scope: Scope, headers: dict[str, str]) -> tuple[str, str] | None:
        peer = (scope.get("client") or ("",))[0]
        if not is_loopback(peer):
            return "invalid_api_key", "without an API key this endpoint accepts connections from its own machine only"
        host = headers.get("host", "")
        if not is_loopback(_split_url(f"//{host}").hostname or ""):
            return "host_not_allowed", "without an API key this endpoint is reached as localhost only"
        origin = headers.get("origin")
        if origin is not None and origin not in self.options.origins and _split_url(origin).netloc != host:
            return "origin_not_allowed", "pages of other sites may not use this endpoint (access.origins)"
        return None

    def _limit_body(self, receive: Receive) -> Receive:
        """Return `receive` with limits on the body's bytes and seconds."""
        options, num_bytes, complete = self.options, 0, False
        deadline = time.monotonic() + options.body_timeout_s

        async def limited() -> Message:
            nonlocal num_bytes, complete
            if complete:  # only a disconnect can follow
                return await receive()
            try:
                message: Any = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
            except TimeoutError:
                raise BodyError(408, f"the body was not complete within {options.body_timeout_s:g} s") from None
            num_bytes += len(message.get("body", b""))
            if num_bytes > options.max_body_bytes:
                raise BodyError(413, _too_large_text(options))
            complete = not message.get("more_body", False)
            return message

        return limited


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _split_url(url: str) -> SplitResult:
    """Return the parts of a URL, all empty if it is not one."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _too_large_text(options: AccessOptions) -> str:
    return f"the request is larger than {options.max_body_bytes / 1e6:g} MB"
