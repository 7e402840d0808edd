"""Limits on a request's header and body, for every process through which it passes."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope

from emage.serving.limits import BODY_TIMEOUT_S, MAX_HEADER_BYTES, MAX_JSON_BYTES, MAX_WAITING_BODIES_BYTES

FORM = "multipart/form-data"
EDITS_PATH = "/v1/images/edits"  # behind any prefix of an application

SINGLE_HEADERS = (b"host", b"origin", b"authorization", b"content-type", b"content-length")


class BodyError(HTTPException):
    """A body that is too large or too slow. It is an HTTPException because FastAPI passes only those on unchanged."""


@dataclass(frozen=True)
class BodyLimits:
    """The limits of a body: a form and the JSON of an edit may hold images, all others are the JSON of a prompt."""

    max_upload_bytes: int
    max_json_bytes: int = MAX_JSON_BYTES
    timeout_s: float = BODY_TIMEOUT_S  # within which it must be complete

    def max_bytes(self, scope: Scope) -> int:
        """Return the largest body that this request may have."""
        return self.max_upload_bytes if _may_hold_images(scope) else self.max_json_bytes

    def too_large_text(self, scope: Scope) -> str:
        """Return the message for a larger one."""
        if _may_hold_images(scope):
            return f"the request is larger than {self.max_upload_bytes / 1e6:g} MB: send a smaller image"
        limit = f"a body without images may have {self.max_json_bytes / 1e3:g} kB"
        return f"{limit}: shorten the prompt, or send images to {EDITS_PATH} as {FORM} or application/json"


def media_type(headers: Headers) -> str:
    """Return the media type of a body, in lower case, without its parameters; "" if the header is missing."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Return whether a media type is one of JSON."""
    return kind == "application/json" or kind.endswith("+json")


def find_header_error(scope: Scope, limits: BodyLimits) -> tuple[str, str] | None:
    """Return the error code and message of a request whose header breaks a limit, or announces such a body."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    line = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    if line + sum(len(name) + len(value) + 4 for name, value in headers) > MAX_HEADER_BYTES:
        return "headers_too_large", f"path and headers may have {MAX_HEADER_BYTES:,} bytes"
    names = [name.lower() for name, _ in headers]
    if twice := next((name for name in SINGLE_HEADERS if names.count(name) > 1), None):
        return "invalid_request", f"the header {twice.decode()} is there twice"
    length = dict(headers).get(b"content-length", b"0")
    if not (length.isascii() and length.isdigit()):
        return "invalid_request", "Content-Length is not a number"
    if int(length[:20]) > limits.max_bytes(scope):
        return "request_too_large", limits.too_large_text(scope)
    return None


def limit_body(scope: Scope, receive: Receive, limits: BodyLimits) -> Receive:
    """Return `receive` with limits on the body's bytes and seconds, which raises BodyError beyond them."""
    num_bytes, max_bytes, complete = 0, limits.max_bytes(scope), False
    deadline = time.monotonic() + limits.timeout_s

    async def limited() -> Message:
        nonlocal num_bytes, complete
        if complete:  # only a disconnect can follow
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            raise BodyError(408, f"the body was not complete within {limits.timeout_s:g} s") from None
        num_bytes += len(message.get("body", b""))
        if num_bytes > max_bytes:
            raise BodyError(413, limits.too_large_text(scope))
        complete = not message.get("more_body", False)
        return message

    return limited


class BodyRoom:
    """Room for the bodies of a process that reads all that its clients send, whether or not the next one takes it."""

    def __init__(self, num_bytes: int = MAX_WAITING_BODIES_BYTES):
        self._num_bytes = self._free = num_bytes
        self._freed = asyncio.Event()

    async def enter(self, scope: Scope, limits: BodyLimits) -> Callable[[], None] | None:
        """Wait until there is room for a request's body.

        Returns:
            A function that gives the room back, however often it is called; None if there was none in the time that a
            body has.
        """
        announced = dict(scope["headers"]).get(b"content-length")
        is_chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        size = limits.max_bytes(scope) if is_chunked else int(announced or 0)
        size = min(size, self._num_bytes)
        try:
            async with asyncio.timeout(limits.timeout_s):
                while self._free < size:
                    await self._freed.wait()
        except TimeoutError:
            return None
        self._free -= size

        def leave() -> None:
            nonlocal size
            self._free, size = self._free + size, 0
            self._freed.set()
            self._freed = asyncio.Event()

        return leave


async def read_small(scope: Scope, receive: Receive, limits: BodyLimits) -> Receive:
    """Return `receive` that gives a body at once, which was read here if it holds no images. Raises BodyError.

    One that is too large or too slow is thus rejected here, and takes no memory of the next process.
    """
    if _may_hold_images(scope):
        return receive
    limited, pieces = limit_body(scope, receive, limits), list[bytes]()
    while (message := await limited())["type"] == "http.request":
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            message = {"type": "http.request", "body": b"".join(pieces), "more_body": False}
            break
    waiting = [message]  # the whole body, or that the client has disconnected

    async def whole() -> Message:
        return waiting.pop() if waiting else await receive()

    return whole


def stop_reading(scope: Scope, receive: Receive, limits: BodyLimits, on_complete: Callable[[], None]) -> Receive:
    """Return `receive` that reads no further once a body is too large: the next process rejects it.

    `on_complete` is called when all of the body has been read.
    """
    num_bytes, max_bytes, complete = 0, limits.max_bytes(scope), False

    async def bounded() -> Message:
        nonlocal num_bytes, complete
        if num_bytes > max_bytes:
            await asyncio.Event().wait()  # until the request is answered, which cancels this
        message = await receive()
        num_bytes += len(message.get("body", b""))
        if not complete and not message.get("more_body", False):
            complete = True
            on_complete()
        return message

    return bounded


def _may_hold_images(scope: Scope) -> bool:
    kind = media_type(Headers(scope=scope))
    return kind == FORM or (is_json(kind) and scope["path"].endswith(EDITS_PATH))
