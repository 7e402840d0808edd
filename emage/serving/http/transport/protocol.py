"""HTTP/1.1 with limits: a uvicorn protocol that lets no client hold memory or a connection for long.

uvicorn's default parser, httptools, joins all pieces of a header again at each read and has no limit on its size, and
uvicorn waits for a header for ever. This protocol is uvicorn's h11 one, which ends a connection whose header exceeds
MAX_HEADER_BYTES. In addition:

- A header must be complete HEADER_TIMEOUT_S after the connection was made or, on a connection that is kept open, after
  the header's first byte.
- At MAX_CONNECTIONS the connection that has waited longest for a request is closed for a new one.
- A client that does not read its answer is disconnected (ANSWER_TIMEOUT_S), as is one that still sends its body
  LINGER_S after the answer.
"""

import asyncio
import ctypes
import functools
import resource
import sys
from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from emage.serving.http.error_handlers import error_answer
from emage.serving.limits import (
    ANSWER_TIMEOUT_S,
    HEADER_TIMEOUT_S,
    LINGER_S,
    MAX_CONNECTIONS,
    MAX_HEADER_BYTES,
    MAX_UNREAD_BYTES,
    RESERVED_FILES,
)

PATH = f"{__name__}:LimitedProtocol"  # as uvicorn's `http` takes it

INVALID_TEXT = f"this is not HTTP/1.1, or path and headers have more than {MAX_HEADER_BYTES:,} bytes"
CHUNKED = (b"transfer-encoding", b"chunked")
# The connections of each server without a request in progress, in the order in which their wait began.
_waiting: WeakKeyDictionary[ServerState, OrderedDict["LimitedProtocol", None]] = WeakKeyDictionary()

# The most connections of each server since its memory was last given back.
_most: WeakKeyDictionary[ServerState, int] = WeakKeyDictionary()
MANY_CONNECTIONS = 500  # after so many, what they took is given back once most of them are gone


@functools.cache
def max_connections() -> int:
    """Return how many connections this process may have open: MAX_CONNECTIONS, or fewer if it may open fewer files.

    The process's own limit of open files (`ulimit -n`) is raised to the most that the system allows it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, hard - RESERVED_FILES))


def give_memory_back() -> None:
    """Return freed memory to the system: glibc keeps what thousands of small buffers took."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim:
            trim(0)


class LimitedProtocol(H11Protocol):
    """One connection of a client."""

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        self.conn = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEADER_BYTES)
        self._waiting = _waiting.setdefault(self.server_state, OrderedDict())
        self._deadline: asyncio.TimerHandle | None = None  # for the header, for the rest of a body, or for closing
        self._num_unread = 0  # bytes of a body that arrived after the answer
        self._answer_deadline: asyncio.TimerHandle | None = None  # for a client that does not read

    # --- What uvicorn's server and the transport call ---

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        _most[self.server_state] = max(_most.get(self.server_state, 0), len(self.connections))
        if len(self.connections) > max_connections():
            longest = next(iter(self._waiting), self)
            longest._abort()
        if not transport.is_closing():
            self._update()

    def data_received(self, data: bytes) -> None:
        if self._has_unread_body():
            self._num_unread += len(data)
            if self._num_unread > MAX_UNREAD_BYTES and CHUNKED in self.headers:
                return  # parsing a million small chunks would keep all others waiting
        super().data_received(data)
        self._update()

    def on_response_complete(self) -> None:
        self._num_unread = 0
        super().on_response_complete()
        self._update()

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        self._update()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        self._end_wait()
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer has begun
            answer = error_answer("invalid_request", INVALID_TEXT)
            headers = [*answer.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=answer.status_code, headers=headers, reason=b"Bad Request"),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_deadline = self.loop.call_later(ANSWER_TIMEOUT_S, self._abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stop_answer_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_wait()
        self._stop_answer_deadline()
        super().connection_lost(exc)
        if MANY_CONNECTIONS < _most.get(self.server_state, 0) > 10 * len(self.connections):
            _most[self.server_state] = len(self.connections)
            self.loop.call_later(1.0, give_memory_back)  # once the last of them are freed

    # --- State ---

    def _is_busy(self) -> bool:
        """Return whether a request is in progress."""
        return self.cycle is not None and not self.cycle.response_complete

    def _has_unread_body(self) -> bool:
        """Return whether a request is answered although its body has not arrived."""
        return self.cycle is not None and self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY

    def _update(self) -> None:
        """Note whether a request is in progress; if none is, set the time in which the client must go on."""
        if self.transport.get_protocol() is not self:  # it became a WebSocket
            return
        if self._is_busy() and not self.transport.is_closing():
            self._end_wait()
            return
        self._waiting.setdefault(self)
        if self.transport.is_closing():
            self._start_deadline(ANSWER_TIMEOUT_S)  # the client may never read the rest of its answer
        elif self._has_unread_body():
            self._start_deadline(LINGER_S)
        elif self.timeout_keep_alive_task is None:  # else the connection is idle, and uvicorn ends it in time
            self._start_deadline(HEADER_TIMEOUT_S)

    def _start_deadline(self, seconds: float) -> None:
        """Disconnect after this time. A deadline that runs already is kept: another byte is no reason to wait."""
        if self._deadline is None:
            self._deadline = self.loop.call_later(seconds, self._abort)

    def _end_wait(self) -> None:
        self._waiting.pop(self, None)
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _stop_answer_deadline(self) -> None:
        if self._answer_deadline is not None:
            self._answer_deadline.cancel()
            self._answer_deadline = None

    def _abort(self) -> None:
        self._end_wait()
        self.transport.abort()
