"""Part of benchmarks/serve_hostile.py: the speed of the parser with limits, and of uvicorn's default, httptools."""

import asyncio
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from serve_hostile_clients import HEAD, connection

from emage.serving.http.transport import protocol


def compare(rounds: int, requests: int) -> dict[str, Any]:
    """Return requests per second of both parsers, in turns, and the ratio of their medians."""
    rates: dict[str, list[float]] = {"h11 with limits": [], "httptools": []}
    for _ in range(rounds):
        for name, http in (("h11 with limits", protocol.PATH), ("httptools", "httptools")):
            with _trivial_server(http) as port:
                rates[name].append(asyncio.run(_requests_per_second(port, requests)))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "requests_per_s": {name: [round(value) for value in values] for name, values in rates.items()},
        "ratio": medians["h11 with limits"] / medians["httptools"],
        "ms_more_a_request": 1e3 / medians["h11 with limits"] - 1e3 / medians["httptools"],
    }


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    """Read the body and answer with an image's worth of bytes."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"10000")]})
    await send({"type": "http.response.body", "body": bytes(10_000)})


@contextmanager
def _trivial_server(http: Any) -> Iterator[int]:
    """Yield the port of a server in a thread of this process."""
    server = uvicorn.Server(
        uvicorn.Config(_answer, port=0, http=http, log_level="error", lifespan="off", loop="uvloop")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


async def _requests_per_second(port: int, count: int) -> float:
    """Send requests one after the other over a connection, as a raw client; return their rate."""
    body = b'{"prompt": "a small red circle above a large blue square", "seed": 7}'
    request = HEAD + b"Accept: */*\r\nUser-Agent: benchmark\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with connection(port) as (reader, writer):
        started = time.perf_counter()
        for _ in range(count):
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(10_000)
        return count / (time.perf_counter() - started)
