"""For the playground page: a server whose streams a test writes event by event, and a listener in front of ours.

A scripted stream stops where the test needs it, so a test can check what the page shows while a request runs.
"""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from PIL import Image
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from emage.serving.http.routes import CONTENT_SECURITY_POLICY, PAGE_FOLDER

Write = Callable[[bytes], None]
TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
SIZE, GRID = 16, 2
MODEL = {
    "id": "emage",
    "method": "iterative3",
    "size": f"{SIZE}x{SIZE}",
    "grid": [GRID, GRID],
    "sampling": {"steps": 4, "order": "halton", "schedule": "cosine", "temperature": 1.0, "guidance": 0.0},
    "examples": [],
}


class CutOff(Exception):
    """Raised by a script: the connection ends in the middle of the answer."""


@dataclass
class Scripted:
    """The answer that a test has set, and the requests that were sent."""

    url: str = ""
    stream: Callable[[Write], None] = lambda write: None
    requests: list[dict[str, Any]] = field(default_factory=list)
    client_gone: threading.Event = field(default_factory=threading.Event)  # it closed the connection early


class Server(NamedTuple):
    """An endpoint and the requests that were sent to it: path and body."""

    url: str
    bodies: list[tuple[str, bytes]]


@contextmanager
def scripted() -> Iterator[Scripted]:
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/v1/models":
                return self._whole(json.dumps({"object": "list", "data": [MODEL]}).encode(), "application/json")
            name = "index.html" if self.path == "/" else self.path.removeprefix("/page/")
            self._whole((PAGE_FOLDER / name).read_bytes(), TYPES[name.rpartition(".")[2]])

        def do_POST(self) -> None:
            script.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            try:
                script.stream(lambda data: self._chunk(data))
                self._chunk(b"")
            except CutOff:
                self.close_connection = True
            except OSError:
                script.client_gone.set()
                self.close_connection = True

        def _chunk(self, data: bytes) -> None:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

        def _whole(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_address[1]}/"
    yield script
    server.shutdown()
    server.server_close()
    thread.join()


def frame(step: int, steps: int = 4, index: int = 0) -> bytes:
    """Return the event of a preview: its image is lighter with every step."""
    data = _image(40 * step) | {"index": index, "seed": 7 + index, "output_format": "png"}
    return _event("image_generation.partial_image", data | {"step": step, "steps": steps, "known": step / steps})


def completed(index: int = 0, prompt_cut: bool = False) -> bytes:
    data = _image(255) | {"index": index, "seed": 7 + index, "output_format": "png", "prompt_cut": prompt_cut}
    return _event("image_generation.completed", data)


def failed(message: str, code: str | None = None) -> bytes:
    return _event("error", {"error": {"message": message, "type": "server_error", "param": None, "code": code}})


def _image(grey: int) -> dict[str, str]:
    file = io.BytesIO()
    Image.new("RGB", (SIZE, SIZE), (grey, grey, grey)).save(file, "PNG")
    return {"b64_json": base64.b64encode(file.getvalue()).decode()}


def _event(kind: str, data: dict[str, Any]) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n".encode()


class Listener:
    """Keeps the request bodies of an ASGI app."""

    def __init__(self, app: ASGIApp, bodies: list[tuple[str, bytes]]):
        self.app, self.bodies = app, bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = b""

        async def receive_and_keep() -> Message:
            nonlocal body
            message = await receive()
            body += message.get("body", b"")
            if body and not message.get("more_body") and message["type"] == "http.request":
                self.bodies.append((scope["path"], body))
            return message

        await self.app(scope, receive_and_keep if scope["type"] == "http" else receive, send)


def fails_after_a_preview(write: Write) -> None:
    """Write a stream that ends in an error after its first preview."""
    write(frame(1))
    write(failed("generation failed"))
