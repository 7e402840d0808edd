"""Limits of headers and bodies by kind, and the room for bodies in a process that passes them on."""

import asyncio
from typing import Any

import pytest

from emage.serving.http.transport.bodies import (
    BodyError,
    BodyLimits,
    BodyRoom,
    find_header_error,
    limit_body,
    stop_reading,
)

LIMITS = BodyLimits(max_upload_bytes=1_000, max_json_bytes=100, timeout_s=0.3)
FORM, JSON, EDITS = b"multipart/form-data; boundary=b", b"application/json", b"/v1/images/edits"


def request(content_type: bytes = JSON, *headers: tuple[bytes, bytes], path: bytes = b"/") -> dict[str, Any]:
    named = [(b"content-type", content_type), *headers]
    return {"headers": named, "path": path.decode(), "raw_path": path, "query_string": b""}


def length(number: object) -> tuple[bytes, bytes]:
    return b"content-length", str(number).encode()


class Sent:
    """A client that has sent these pieces of a body, the last one if `ends`, and waits for its answer."""

    def __init__(self, *pieces: bytes, ends: bool = True):
        self.messages = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        if ends:
            self.messages[-1]["more_body"] = False

    async def __call__(self) -> Any:
        if not self.messages:
            await asyncio.Event().wait()
        return self.messages.pop(0)


@pytest.mark.parametrize(
    ("scope", "code"),
    [
        (request(JSON, length(100)), None),
        (request(JSON, length(101)), "request_too_large"),
        (request(b"", length(101)), "request_too_large"),
        (request(b"text/plain", length(101)), "request_too_large"),
        (request(FORM, length(1_000)), None),
        (request(FORM.upper(), length(1_000)), None),
        (request(b"Multipart/Form-Data ;boundary=b", length(1_000)), None),
        (request(FORM, length(1_001)), "request_too_large"),
        (request(b"multipart/form-database", length(101)), "request_too_large"),
        (request(JSON, length("9" * 6_000)), "request_too_large"),
        (request(JSON, length("many")), "invalid_request"),
        (request(JSON, length(-1)), "invalid_request"),
        (request(JSON, (b"content-length", "²".encode("latin-1"))), "invalid_request"),
        (request(JSON, (b"x", bytes(16_400))), "headers_too_large"),
        (request(JSON, *[(b"x", b"")] * 4_000), "headers_too_large"),
        (request(path=b"/" * 16_400), "headers_too_large"),
        (request(JSON, (b"x", bytes(16_000))), None),
        (request(JSON, (b"host", b"a"), (b"host", b"a")), "invalid_request"),
        (request(JSON, (b"origin", b"a"), (b"Origin", b"b")), "invalid_request"),
        (request(JSON, (b"content-type", FORM)), "invalid_request"),
        (request(JSON, (b"authorization", b"a"), (b"authorization", b"b")), "invalid_request"),
        (request(JSON, (b"accept", b"a"), (b"accept", b"b")), None),
        (request(JSON, length(1_000), path=EDITS), None),
        (request(JSON, length(1_000), path=b"/app" + EDITS), None),
        (request(JSON, length(1_001), path=EDITS), "request_too_large"),
        (request(b"text/plain", length(101), path=EDITS), "request_too_large"),
        (request(JSON, length(101), path=EDITS + b"/more"), "request_too_large"),
    ],
)
def test_headers(scope: dict[str, Any], code: str | None) -> None:
    assert (find_header_error(scope, LIMITS) or (None,))[0] == code


@pytest.mark.parametrize(
    ("kind", "pieces", "status"),
    [
        (JSON, [bytes(50), bytes(50)], None),
        (JSON, [bytes(50), bytes(51)], 413),
        (FORM, [bytes(500), bytes(500)], None),
        (FORM, [bytes(500), bytes(501)], 413),
    ],
)
def test_a_body_without_a_length_is_counted(kind: bytes, pieces: list[bytes], status: int | None) -> None:
    async def read() -> None:
        receive = limit_body(request(kind), Sent(*pieces), LIMITS)
        while (await receive())["more_body"]:
            pass

    if status is None:
        asyncio.run(read())
    else:
        with pytest.raises(BodyError) as caught:
            asyncio.run(read())
        assert caught.value.status_code == status


def test_a_body_has_a_time_limit() -> None:
    async def read() -> None:
        receive = limit_body(request(), Sent(b"a", ends=False), LIMITS)
        await receive()
        await receive()

    with pytest.raises(BodyError) as caught:
        asyncio.run(read())
    assert caught.value.status_code == 408


def test_the_proxy_reads_no_further_than_the_limit() -> None:
    async def scene() -> tuple[int, list[str]]:
        client, completed = Sent(*[bytes(60)] * 10), list[str]()
        receive = stop_reading(request(), client, LIMITS, lambda: completed.append("complete"))
        num_bytes = 0
        try:
            async with asyncio.timeout(0.1):
                while True:
                    num_bytes += len((await receive())["body"])
        except TimeoutError:
            return num_bytes, completed

    assert asyncio.run(scene()) == (120, [])


def test_a_body_gives_its_room_back_once_it_is_complete() -> None:
    async def scene() -> list[str]:
        calls = list[str]()
        receive = stop_reading(request(), Sent(b"a", b"b"), LIMITS, lambda: calls.append("complete"))
        await receive()
        assert calls == []
        await receive()
        with pytest.raises(TimeoutError):  # the disconnect that follows is no second end
            await asyncio.wait_for(receive(), 0.05)
        return calls

    assert asyncio.run(scene()) == ["complete"]


def test_bodies_wait_for_room() -> None:
    async def scene() -> None:
        room = BodyRoom(1_500)
        first = await room.enter(request(FORM, length(1_000)), LIMITS)
        assert first is not None
        assert await room.enter(request(FORM, length(501)), LIMITS) is None  # after 0.3 s
        assert await room.enter(request(FORM, (b"transfer-encoding", b"chunked")), LIMITS) is None  # may become 1,000
        small = await room.enter(request(JSON, length(100)), LIMITS)
        assert small is not None
        waiting = asyncio.create_task(room.enter(request(FORM, length(1_000)), LIMITS))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        first()
        first()  # a second call gives nothing back
        last = await waiting
        assert last is not None
        assert await room.enter(request(FORM, length(401)), LIMITS) is None
        assert await room.enter(request(FORM, length(400)), LIMITS) is not None

    asyncio.run(scene())
