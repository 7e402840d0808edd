"""Honest clients among thousands of hostile ones: what they wait, and what memory is left afterwards.

    python benchmarks/serve_hostile.py                                # 5,000 connections; five minutes on two cores
    python benchmarks/serve_hostile.py hostile=500 honest=10          # a smaller load
    python benchmarks/serve_hostile.py parts=[parser]                 # or load

Starts pipelines/serve.py as a user does, with the shipped model on a CPU. All is on this machine.
- load: the honest clients send a request each, all at once, again and again for `seconds`: first alone, then while the
  hostile connections are open. There are equal numbers of each kind: silent; a letter of a header each second; a header
  without an end; a JSON body of 15 MB. One that the server ends is made again after five seconds. They run in a
  process of a low priority, since they share the cores with the server here and would not elsewhere. The server's
  memory (USS) is compared before the load and after it, once all its time limits have passed.
- parser: requests per second of uvicorn with a trivial application and the parser with limits, in turns with uvicorn's
  default, httptools: the ratio of the medians of `rounds` runs.
Prints the figures and writes results/serve_hostile.json.
"""

import asyncio
import contextlib
import itertools
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import results_file
import uvicorn
from serve import machine
from serve_client import Answer, ask, open_session
from serve_program import arguments, megabytes, serving

from emage import config
from emage.config import ServeConfig, cli
from emage.config.fields import setting
from emage.serving.http.transport import protocol
from emage.serving.limits import ANSWER_TIMEOUT_S, HEADER_TIMEOUT_S
from emage.utils.errors import InputError, exit_on_bad_input

HEAD = b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
HUGE_JSON = 15_000_000  # bytes
PAUSE_S = 5.0  # before a hostile client connects again
PIECE_S = 0.5  # between two pieces of 64 kB: together they send what a network of a gigabit carries
CONNECT_S = 300.0
RESTS_S = HEADER_TIMEOUT_S + ANSWER_TIMEOUT_S  # until the server has forgotten the last hostile client
OWN_PROCESSES = ("proxy", "Frontend", "Model")
CHARACTERS = b"x" * 65_536


@dataclass(frozen=True)
class HostileBenchmark:
    """Honest clients among hostile connections, and the speed of the HTTP parser."""

    parts: tuple[str, ...] = setting(("load", "parser"), "Parts to run: load, parser.")
    hostile: int = setting(5_000, "Hostile connections at a time.", unit="connections", minimum=4)
    honest: int = setting(50, "Honest clients.", unit="clients", minimum=1)
    seconds: float = setting(30.0, "Duration of the load, and of the same requests without it.", unit="s", above=0)
    rounds: int = setting(5, "Runs of each parser.", unit="runs", minimum=1)
    steps: int = setting(16, "Decoding steps of an image.", unit="steps", minimum=1)
    requests: int = setting(4_000, "Requests of each run of a parser.", unit="requests", minimum=1)
    results: str = setting(str(Path(__file__).with_name("results") / "serve_hostile.json"), "File for the results.")


def main(argv: Sequence[str]) -> None:
    """Run the benchmark; exit with 2 and one line on bad input."""
    with exit_on_bad_input():
        settings = cli.parse(HostileBenchmark, argv)
        record = machine(threads=1)
        for part in settings.parts:
            record[part] = {"load": load, "parser": parser}[part](settings)
            print(part, record[part])
        results_file.write(Path(settings.results), record)


# --- Load -------------------------------------------------------------------------------------------------------------


def load(settings: HostileBenchmark) -> dict[str, Any]:
    """Return the seconds of the honest clients without and with hostile ones, and the memory before and after."""
    _check_open_files(settings.hostile + 500)
    command = arguments("demo", {"max_queued": max(128, settings.honest), "timeout_s": 300})
    port = config.parse(ServeConfig, command).port
    with tempfile.TemporaryDirectory() as folder, serving(command, port, Path(folder)) as (url, process):
        server = psutil.Process(process.pid)
        asyncio.run(honest_clients(url, replace(settings, seconds=0.1)))  # warm-up
        quiet = asyncio.run(honest_clients(url, settings))
        before = _own_megabytes(server)
        with hostile_clients(port, settings.hostile) as ended:
            started = time.monotonic()
            hostile = asyncio.run(honest_clients(url, settings))
            seconds = time.monotonic() - started
            during = _own_megabytes(server)
        time.sleep(RESTS_S)
        after = _own_megabytes(server)
        again = asyncio.run(honest_clients(url, replace(settings, seconds=0.1)))
    slowest = {
        name: max(answer.seconds for answer in answers) for name, answers in (("quiet", quiet), ("hostile", hostile))
    }
    return {
        "hostile": settings.hostile,
        "honest": settings.honest,
        "outcomes": dict(Counter(answer.outcome for answer in hostile)),
        "outcomes_quiet": dict(Counter(answer.outcome for answer in quiet)),
        "outcomes_afterwards": dict(Counter(answer.outcome for answer in again)),
        "slowest_s": slowest,
        "median_s": {
            "quiet": statistics.median(answer.seconds for answer in quiet),
            "hostile": statistics.median(answer.seconds for answer in hostile),
        },
        "slowest_ratio": slowest["hostile"] / slowest["quiet"],
        "load_s": seconds,
        "hostile_connections": dict(ended),
        "mb_before": before,
        "mb_during": during,
        "mb_after": after,
        "mb_growth": sum(after.values()) - sum(before.values()),
    }


async def honest_clients(url: str, settings: HostileBenchmark) -> list[Answer]:
    """Return the answers of all honest clients; each opens a connection of its own for every request."""
    numbers = itertools.count()

    async def one() -> Answer:
        number = next(numbers)
        body = {"prompt": "a small red circle above a large blue square", "seed": number, "steps": settings.steps}
        async with open_session(url, 300) as session:
            return await ask(session, number, body)

    answers: list[Answer] = []
    ends = time.monotonic() + settings.seconds
    while time.monotonic() < ends:
        answers += await asyncio.gather(*(one() for _ in range(settings.honest)))
    return answers


def _own_megabytes(server: psutil.Process) -> dict[str, float]:
    """Return USS in megabytes of the processes that clients can reach."""
    found = megabytes(server)
    return {name: round(found[name][1], 1) for name in OWN_PROCESSES}


def _check_open_files(wanted: int) -> None:
    """Raise this process's limit of open files. Raise InputError if the system allows too few."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise InputError(f"hostile= needs {wanted} open files and this system allows {hard} (ulimit -Hn): lower it")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


# --- Hostile clients --------------------------------------------------------------------------------------------------


@contextmanager
def hostile_clients(port: int, count: int) -> Iterator[dict[str, int]]:
    """Keep hostile connections open in a process of its own while the block runs.

    Yields:
        Numbers, filled at the end: connections that were made and that the server ended, by kind; and the smallest
        number that was open at a time, after all had been made.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_hostile, args=(port, count, theirs), daemon=True)
    process.start()
    theirs.close()  # else a process that ended would be waited for
    ended: dict[str, int] = {}
    try:
        if not ours.poll(CONNECT_S):
            raise InputError(f"{count} hostile connections could not be made within {CONNECT_S} s")
        ours.recv()
        yield ended
        ours.send("stop")
        if ours.poll(CONNECT_S):
            ended.update(ours.recv())
    finally:
        process.kill()
        process.join()


def _run_hostile(port: int, count: int, pipe: Connection) -> None:
    os.nice(10)
    asyncio.run(_hostile(port, count, pipe))


async def _hostile(port: int, count: int, pipe: Connection) -> None:
    """Keep `count` connections open; say so once each was made; at the next message send how many the server ended."""
    kinds = (silent, trickling, endless_header, huge_json)
    counts, is_open, made = Counter[str](), set[int](), set[int]()

    async def keep(number: int) -> None:
        kind = kinds[number % len(kinds)]
        while True:
            with contextlib.suppress(OSError):
                async with _connection(port) as (reader, writer):
                    counts[f"{kind.__name__} made"] += 1
                    made.add(number)
                    is_open.add(number)
                    try:
                        await kind(reader, writer)
                    finally:
                        is_open.discard(number)
            counts[f"{kind.__name__} ended"] += 1
            await asyncio.sleep(PAUSE_S)

    tasks = [asyncio.create_task(keep(number)) for number in range(count)]
    while len(made) < count:
        await asyncio.sleep(0.1)
    pipe.send("ready")
    fewest = count
    while not pipe.poll():
        fewest = min(fewest, len(is_open))
        await asyncio.sleep(0.1)
    pipe.send({**counts, "fewest open": fewest})
    await asyncio.gather(*tasks)  # until this process is killed


@contextlib.asynccontextmanager
async def _connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send nothing."""
    await reader.read()


async def trickling(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a letter of a header each second."""
    writer.write(HEAD + b"X-Slow: ")
    await _repeat(writer, b"x", 10**6, every=1.0)


async def endless_header(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a header that does not end."""
    writer.write(HEAD + b"X-Long: ")
    await _repeat(writer, CHARACTERS, 10**6, every=PIECE_S)


async def huge_json(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send an object with a very long key, whatever the server answers."""
    writer.write(HEAD + b'Content-Length: %d\r\n\r\n{"' % HUGE_JSON)
    await _repeat(writer, CHARACTERS, HUGE_JSON // len(CHARACTERS), every=PIECE_S)
    await reader.read()


async def _repeat(writer: asyncio.StreamWriter, piece: bytes, times: int, every: float) -> None:
    for _ in range(times):
        writer.write(piece)
        await writer.drain()  # raises ConnectionError once the server has closed the connection
        await asyncio.sleep(every)


# --- Parser -----------------------------------------------------------------------------------------------------------


def parser(settings: HostileBenchmark) -> dict[str, Any]:
    """Return requests per second of both parsers, in turns, and the ratio of their medians."""
    rates: dict[str, list[float]] = {"h11 with limits": [], "httptools": []}
    for _ in range(settings.rounds):
        for name, http in (("h11 with limits", protocol.PATH), ("httptools", "httptools")):
            with _trivial_server(http) as port:
                rates[name].append(asyncio.run(_requests_per_second(port, settings.requests)))
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
    await send({"type": "http.response.body", "body": CHARACTERS[:10_000]})


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
    async with _connection(port) as (reader, writer):
        started = time.perf_counter()
        for _ in range(count):
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(10_000)
        return count / (time.perf_counter() - started)


if __name__ == "__main__":
    main(sys.argv[1:])
