"""Part of benchmarks/serve_hostile.py: the hostile connections, of four kinds, in a process of their own."""

import asyncio
import contextlib
import multiprocessing
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection

from emage.utils.errors import InputError

HEAD = b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
HUGE_JSON = 15_000_000  # bytes
PAUSE_S = 5.0  # before a hostile client connects again
PIECE_S = 0.5  # between two pieces of 64 kB: together they send what a network of a gigabit carries
CONNECT_S = 60.0
CHARACTERS = b"x" * 65_536
KEYS = b'"0123456":1,' * (65_536 // 12)  # of a JSON object


@contextmanager
def hostile_clients(port: int, count: int, niceness: int) -> Iterator[dict[str, int]]:
    """Keep hostile connections open in a process of its own while the block runs.

    Args:
        port: The server's, on this machine.
        count: Connections at a time.
        niceness: Of their process.

    Yields:
        Numbers, filled at the end: connections that were made and that the server ended, by kind; and the smallest,
        the largest and the mean number of those open at a time, after all had been made.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_hostile, args=(port, count, niceness, theirs), daemon=True)
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


def _run_hostile(port: int, count: int, niceness: int, pipe: Connection) -> None:
    os.nice(niceness)
    asyncio.run(_hostile(port, count, pipe))


async def _hostile(port: int, count: int, pipe: Connection) -> None:
    """Keep `count` connections open; say so once each was made; at the next message send how many the server ended."""
    kinds = (silent, trickling, endless_header, huge_json, silent, trickling, endless_header, huge_chunked_json)
    counts, is_open, made = Counter[str](), set[int](), set[int]()

    async def keep(number: int) -> None:
        kind = kinds[number % len(kinds)]
        while True:
            with contextlib.suppress(OSError):
                async with connection(port) as (reader, writer):
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
    seen = [len(is_open)]
    while not pipe.poll():
        await asyncio.sleep(0.1)
        seen.append(len(is_open))
    pipe.send({**counts, "fewest open": min(seen), "most open": max(seen), "mean open": sum(seen) // len(seen)})
    await asyncio.gather(*tasks)  # until this process is killed


@contextlib.asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
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
    """Send an object with a million keys, whatever the server answers."""
    writer.write(HEAD + b"Content-Length: %d\r\n\r\n{" % HUGE_JSON)
    await _repeat(writer, KEYS, HUGE_JSON // len(KEYS), every=PIECE_S)
    await reader.read()


async def huge_chunked_json(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send the same without saying how long it is."""
    writer.write(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n")
    await _repeat(writer, b"%x\r\n%b\r\n" % (len(KEYS), KEYS), HUGE_JSON // len(KEYS), every=PIECE_S)
    await reader.read()


async def _repeat(writer: asyncio.StreamWriter, piece: bytes, times: int, every: float) -> None:
    for _ in range(times):
        writer.write(piece)
        await writer.drain()  # raises ConnectionError once the server has closed the connection
        await asyncio.sleep(every)
