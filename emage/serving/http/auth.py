"""Access rules: an ASGI middleware in front of every route, for authentication, origins, and the size of a request.

Without an API key the endpoint serves its own machine only: it answers loopback addresses. No page of another site may
use it from a browser on this machine, neither under a host name that resolves to it nor from another Origin; nor may
other machines through a reverse proxy on this one, whose requests have FORWARDED_HEADERS.
"""

import asyncio
import hashlib
import hmac
import ipaddress
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emage.serving.http.error_handlers import SECURITY_HEADERS, error_answer
from emage.serving.http.transport import bodies
from emage.serving.limits import BODY_TIMEOUT_S, MAX_DELAYED_KEYS, WRONG_KEY_DELAY_S

PUBLIC_PATHS = (
    "/",
    "/health",
    "/docs",
    "/openapi.json",
)  # need no key: they show nothing secret and give the model no work
PUBLIC_PREFIXES = ("/page/", "/static-offline-docs/")
# Headers that proxies add. A proxy that adds none of them is taken for a program of this machine.
FORWARDED_HEADERS = ("forwarded", "via", "x-real-ip", "x-client-ip", "true-client-ip", "cf-connecting-ip")
FORWARDED_PREFIX = "x-forwarded-"


@dataclass(frozen=True)
class AccessOptions:
    """The access rules."""

    key_sha256: str | None = None  # of the API key; None: no key, and only this machine is answered
    origins: tuple[str, ...] = ()  # of other sites whose pages may use the endpoint
    max_upload_bytes: int = 20_000_000  # of the body of an edit
    body_timeout_s: float = BODY_TIMEOUT_S  # within which a request's body must be complete


class AuthMiddleware:
    """Rejects requests that break the access rules, and adds SECURITY_HEADERS to the answers of all others."""

    def __init__(self, app: ASGIApp, options: AccessOptions):
        self.app, self.options = app, options
        self._bodies = bodies.BodyLimits(options.max_upload_bytes, timeout_s=options.body_timeout_s)
        self._num_delayed = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = _headers(scope)
        if rejection := self._find_rejection(scope, headers):
            code, message = rejection
            challenge = {"WWW-Authenticate": "Bearer"} if code == "invalid_api_key" else None
            if code == "invalid_api_key" and headers.get("authorization"):
                await self._delay()
            return await error_answer(code, message, headers=challenge)(scope, receive, send)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    answered.setdefault(name, value)
            await send(message)

        await self.app(scope, bodies.limit_body(scope, receive, self._bodies), send_with_headers)

    async def _delay(self) -> None:
        """Slow down a client that guesses keys. Those with the right key never wait."""
        if self._num_delayed >= MAX_DELAYED_KEYS:
            return
        self._num_delayed += 1
        try:
            await asyncio.sleep(WRONG_KEY_DELAY_S)
        finally:
            self._num_delayed -= 1

    def _find_rejection(self, scope: Scope, headers: dict[str, str]) -> tuple[str, str] | None:
        """Return the error code and message of a request that breaks a rule, else None."""
        if error := bodies.find_header_error(scope, self._bodies):
            return error
        if self.options.key_sha256 is None:
            return self._find_rejection_without_key(scope, headers)
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        if path in PUBLIC_PATHS or path.startswith(PUBLIC_PREFIXES):
            return None
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = hashlib.sha256(key.strip().encode("latin-1")).hexdigest()
        if scheme.lower() == "bearer" and hmac.compare_digest(given, self.options.key_sha256):
            return None
        return "invalid_api_key", "this endpoint needs an API key: Authorization: Bearer KEY"

    def _find_rejection_without_key(self, scope: Scope, headers: dict[str, str]) -> tuple[str, str] | None:
        if not is_loopback(_peer(scope)):
            return "invalid_api_key", "without an API key this endpoint accepts connections from its own machine only"
        if forwarded := _proxy_header(headers):
            return "invalid_api_key", f"without an API key this endpoint answers no proxy (the header {forwarded})"
        if not is_loopback(_host_name(headers)):
            return "host_not_allowed", "without an API key this endpoint is reached as localhost only"
        origin, host = headers.get("origin"), headers.get("host")
        if origin is not None and origin not in self.options.origins and _split_url(origin).netloc != host:
            return "origin_not_allowed", "pages of other sites may not use this endpoint (access.origins)"
        return None


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def is_own_machine(scope: Scope) -> bool:
    """Return whether a request is from this machine, to a name of this machine, through no proxy."""
    headers = _headers(scope)
    return is_loopback(_peer(scope)) and is_loopback(_host_name(headers)) and not _proxy_header(headers)


def _headers(scope: Scope) -> dict[str, str]:
    return {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}


def _peer(scope: Scope) -> str:
    """Return the address that a request came from, "" if it is not known."""
    return (scope.get("client") or ("",))[0]


def _host_name(headers: dict[str, str]) -> str:
    """Return the name in the header Host, without the port; "" if there is none."""
    return _split_url(f"//{headers.get('host', '')}").hostname or ""


def _proxy_header(headers: dict[str, str]) -> str | None:
    """Return the name of a header that a proxy added, None if there is none."""
    return next((name for name in headers if name in FORWARDED_HEADERS or name.startswith(FORWARDED_PREFIX)), None)


def _split_url(url: str) -> SplitResult:
    """Return the parts of a URL, all empty if it is not one."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")
