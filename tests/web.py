"""A loopback web server that can misbehave: a page is its bytes, or a function that writes the response."""

import http.server
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from PIL import Image

Page = bytes | Callable[[http.server.BaseHTTPRequestHandler], None]


@contextmanager
def serving(pages: dict[str, Page], host: str = "127.0.0.1") -> Iterator[str]:
    """Yield the address of a server of `pages` (path -> page); other paths are a 404. Pages may be added later."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            if page is None:
                self.send_error(404)
            elif callable(page):
                page(self)
            else:
                answer(page)(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((host, 0), Handler)
    server.handle_error = lambda *_: None  # clients disconnect on purpose
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def listening(talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Yield the host:port of a server that calls `talk` with every connection, without HTTP."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # closed
                return
            threading.Thread(target=_quietly, args=(talk, connection), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def _quietly(talk: Callable[[socket.socket], None], connection: socket.socket) -> None:
    with connection, suppress(OSError):  # clients disconnect on purpose
        talk(connection)


def answer(body: bytes, status: int = 200, **headers: str) -> Page:
    """An honest answer; `headers` with _ for -, Content-Length as it is unless given."""

    def page(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content_Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return page


def redirect(url: str) -> Page:
    return answer(b"", 302, Location=url)


def in_turn(*turns: Page) -> Page:
    """The first page for the first request, the next for the second, the last for all that follow."""
    left = list(turns)

    def page(handler: http.server.BaseHTTPRequestHandler) -> None:
        turn = left.pop(0) if len(left) > 1 else left[0]
        (turn if callable(turn) else answer(turn))(handler)  # type: ignore[operator]

    return page


def dripping_body(handler: http.server.BaseHTTPRequestHandler) -> None:
    """A byte now and then, for ever: no single wait is long."""
    handler.send_response(200)
    handler.end_headers()
    _drip(handler)


def dripping_headers(handler: http.server.BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    _drip(handler)


def endless(handler: http.server.BaseHTTPRequestHandler) -> None:
    """As fast as it goes, without an end and without saying how long it is."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x" * 65536)


def _drip(handler: http.server.BaseHTTPRequestHandler) -> None:
    while True:
        handler.wfile.write(b"x")
        handler.wfile.flush()
        time.sleep(0.05)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """An image as a page."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
