"""Part of benchmarks/serve.py: the client, with requests over loopback in closed loops, and their outcomes."""

import asyncio
import base64
import json
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple

import aiohttp
import numpy as np

PATH = "/v1/images/generations"
ERROR_FIELDS = {"message", "type", "param", "code"}


class Answer(NamedTuple):
    """Outcome of request `number`: "200", status and code of an error in the API's form, or another failure."""

    number: int
    started: float
    seconds: float
    outcome: str
    png: bytes | None = None  # the first image
    retry_after: float | None = None

    @property
    def is_clean(self) -> bool:
        """Return whether it is an image or an error in the API's form."""
        return self.outcome[:3].isdigit() and not self.outcome.endswith("form")


Ask = Callable[[aiohttp.ClientSession, int], Awaitable[Answer]]


def open_session(url: str, deadline_s: float) -> aiohttp.ClientSession:
    """Open a session with any number of connections and a deadline per request."""
    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(deadline_s)
    return aiohttp.ClientSession(url, connector=connector, timeout=timeout, read_bufsize=1 << 20)


async def ask(session: aiohttp.ClientSession, number: int, request: dict[str, Any]) -> Answer:
    """POST a request and read the whole answer."""
    started, answer = time.perf_counter(), dict[str, Any]()
    try:
        async with session.post(PATH, json=request) as response:
            answer["outcome"], answer["png"] = outcome(response.status, await response.read())
            if response.status in (429, 503):
                answer["retry_after"] = float(response.headers.get("Retry-After", 1))
    except (TimeoutError, aiohttp.ClientError) as error:
        answer = {"outcome": "no answer" if isinstance(error, TimeoutError) else type(error).__name__}
    return Answer(number, started, time.perf_counter() - started, **answer)


def outcome(status: int, text: bytes) -> tuple[str, bytes | None]:
    """Return the outcome as text, as in `Answer`, and the first image."""
    try:
        found = json.loads(text)
        if status == 200:
            return "200", base64.b64decode(found["data"][0]["b64_json"])
        if set(found["error"]) == ERROR_FIELDS:
            return f"{status} {found['error']['code']}", None
    except (ValueError, LookupError, TypeError):
        pass
    return f"{status} not in the API's form", None


async def stream(session: aiohttp.ClientSession, number: int, request: dict[str, Any], leave: bool) -> Answer:
    """Stream a request event by event; with `leave`, close the connection after the first event."""
    started, events, result = time.perf_counter(), list[str](), "a truncated stream"
    try:
        async with session.post(PATH, json={**request, "stream": True}) as response:
            if response.status != 200:
                result = outcome(response.status, await response.read())[0]
            async for line in response.content:
                events += [line.decode().split()[1]] if line.startswith(b"event:") else []
                if leave and events:
                    response.close()
                    break
    except (TimeoutError, aiohttp.ClientError) as error:
        result = type(error).__name__
    if events:
        result = "left" if leave else "200 streamed" if events[-1].endswith(".completed") else f"ends with {events[-1]}"
    return Answer(number, started, time.perf_counter() - started, result)


async def closed_loops(
    url: str,
    ask_for: Ask,
    numbers: Iterable[int],
    *,
    clients: int,
    seconds: float,
    deadline_s: float,
    moved: Callable[[], object] = lambda: None,
) -> list[Answer]:
    """Return all answers in the order of arrival: each client takes the next number when it has its last answer.

    A client that gets Retry-After waits and sends the same number again. After `seconds` no more requests are sent.
    """
    left, answers, ends = iter(numbers), list[Answer](), time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession) -> None:
        for number in left:
            while time.perf_counter() < ends:
                answers.append(answer := await ask_for(session, number))
                if answer.retry_after is None:
                    break
                await asyncio.sleep(answer.retry_after)
            moved()
            if time.perf_counter() >= ends:
                break

    async with open_session(url, deadline_s) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return answers


def percentiles(ms: Iterable[float]) -> dict[str, float | None]:
    """Return p50, p95 and p99; None if there are no values."""
    values, names = list(ms), ("p50", "p95", "p99")
    return dict(zip(names, np.percentile(values, (50, 95, 99)).tolist() if values else [None] * 3, strict=True))
