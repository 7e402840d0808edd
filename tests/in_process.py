"""Serves an ASGI app over real HTTP on 127.0.0.1, in a thread of this process, with the parser of the endpoint."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from emage.serving.http.transport import protocol


@contextmanager
def serving(make: Callable[[], Any]) -> Iterator[str]:
    """Yield the URL of an ASGI app, which is created inside its event loop and served while the block runs."""
    server: list[uvicorn.Server] = []
    started = threading.Event()

    async def run() -> None:
        options = {"http": protocol.PATH, "log_level": "error", "timeout_graceful_shutdown": 1}
        config = uvicorn.Config(make(), host="127.0.0.1", port=0, **options)
        server.append(uvicorn.Server(config))
        task = asyncio.create_task(server[0].serve())
        while not server[0].started and not task.done():
            await asyncio.sleep(0.01)
        started.set()
        await task

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    assert started.wait(30) and server[0].started
    yield f"http://127.0.0.1:{server[0].servers[0].sockets[0].getsockname()[1]}"
    server[0].should_exit = True
    thread.join(30)
