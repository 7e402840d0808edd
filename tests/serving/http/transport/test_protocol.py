"""What a connection may cost before and after its request: sizes, times, how many there are."""

import asyncio
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import hostile
import pytest
from hostile import connect, head
from in_process import serving

from emage.serving import limits
from emage.serving.http.transport import protocol

PATIENCE_S = 0.5  # instead of each time limit; a test fails if the server waits four times as long
HEADER = head("/", "GET")


class App:
    """Answers with the number of requests: `/slow` later, `/large` with 20 MB, `/early` without reading the body."""

    def __init__(self) -> None:
        self.num_requests = self.num_open = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.num_requests += 1
        self.num_open += 1
        body = str(self.num_requests).encode()
        try:
            if scope["path"] != "/early":
                while (await receive()).get("more_body"):
                    pass
            await asyncio.sleep(1.5 if scope["path"] == "/slow" else 0)
            pieces = [bytes(1_000_000)] * 20 if scope["path"] == "/large" else [body]
            length = str(sum(map(len, pieces))).encode()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
            for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            self.num_open -= 1


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def url(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in ("HEADER_TIMEOUT_S", "ANSWER_TIMEOUT_S", "LINGER_S"):
        monkeypatch.setattr(protocol, name, PATIENCE_S)
    with serving(lambda: app) as address:
        yield address


def seconds_until_closed(connection: socket.socket, within: float = 4 * PATIENCE_S) -> float:
    """Return how long the server kept a connection; what it sends is read. Raise TimeoutError if it does not close."""
    started = time.monotonic()
    try:
        while time.monotonic() < started + within:
            connection.settimeout(started + within - time.monotonic())
            if not connection.recv(1 << 16):
                return time.monotonic() - started
    except ConnectionError:
        return time.monotonic() - started
    raise TimeoutError


def read_answer(connection: socket.socket) -> bytes:
    """Return the body of the next answer, which fits into one read."""
    connection.settimeout(5)
    data = b""
    while not data.partition(b"\r\n\r\n")[2]:
        data += connection.recv(1 << 16) or pytest.fail("closed")
    return data.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("start", [b"", b"G", HEADER[:-2]], ids=["silent", "a letter", "half a header"])
def test_a_connection_without_a_complete_header_is_closed(url: str, start: bytes) -> None:
    with connect(url) as connection:
        connection.sendall(start)
        assert seconds_until_closed(connection) > PATIENCE_S / 2


def test_more_bytes_of_a_header_do_not_prolong_its_time(url: str) -> None:
    def letters() -> Iterator[bytes]:
        yield HEADER[:-2] + b"X-Long: "
        while True:
            yield b"a"

    answer = hostile.drip(url, letters(), every=PATIENCE_S / 5, within=8 * PATIENCE_S)
    assert answer.status is None and answer.seconds < 4 * PATIENCE_S


def test_a_header_without_an_end_is_cut_off(app: App, url: str) -> None:
    sent = 0
    with connect(url) as connection:
        connection.sendall(HEADER[:-2] + b"X-Long: ")
        with pytest.raises(ConnectionError):
            for _ in range(100):
                connection.sendall(b"a" * 100_000)
                sent += 100_000
    assert sent < 8_000_000  # what the sockets' own buffers hold
    assert app.num_requests == 0


def test_invalid_http_is_rejected_in_the_form_of_the_api(url: str) -> None:
    for data in (b"\x16\x03\x01 hello\r\n\r\n", head("/", "GET").replace(b"\r\n\r\n", b"\r\nHost: other\r\n\r\n")):
        answer = hostile.send(url, data)
        assert answer.status == 400 and answer.error["code"] == "invalid_request", answer


def test_an_idle_connection_may_go_on_but_its_next_header_has_a_deadline(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(HEADER)
        assert read_answer(connection) == b"1"
        time.sleep(2 * PATIENCE_S)  # uvicorn keeps it for five seconds
        connection.sendall(HEADER)
        assert read_answer(connection) == b"2"
        connection.sendall(HEADER[:10])
        assert seconds_until_closed(connection) > PATIENCE_S / 2


def test_a_request_in_progress_has_no_deadline_of_its_connection(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(head("/slow", "GET"))
        assert read_answer(connection) == b"1"


def test_the_connection_that_waited_longest_makes_room(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "max_connections", lambda: 4)
    monkeypatch.setattr(protocol, "HEADER_TIMEOUT_S", 60.0)
    with connect(url) as busy:
        busy.sendall(head("/slow", "GET"))
        with hostile.held_open(url, 3) as silent:
            time.sleep(0.1)
            with connect(url) as newest:
                newest.sendall(HEADER)
                assert read_answer(newest) == b"2"
                assert seconds_until_closed(silent[0]) < PATIENCE_S
                silent[1].sendall(HEADER)
                assert read_answer(silent[1]) == b"3"
        assert read_answer(busy) == b"1"


def test_at_the_limit_a_new_connection_does_not_end_requests(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "max_connections", lambda: 2)
    with hostile.held_open(url, 2, head("/slow", "GET")) as busy:
        time.sleep(0.1)
        with connect(url) as newest:
            assert seconds_until_closed(newest) < PATIENCE_S / 2
        assert {read_answer(connection) for connection in busy} == {b"1", b"2"}


def test_a_client_that_does_not_read_is_disconnected(app: App, url: str) -> None:
    with connect(url) as connection:
        connection.sendall(head("/large", "GET"))
        deadline = time.monotonic() + 8 * PATIENCE_S
        while not app.num_requests or app.num_open:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_slow_reader_gets_all_of_a_large_answer(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(head("/large", "GET", Connection="close"))
        num_bytes = 0
        while piece := connection.recv(1 << 18):
            num_bytes += len(piece)
            time.sleep(0.02)  # longer than the time limit in all
    assert num_bytes > 20_000_000


def test_a_body_after_the_answer_ends_the_connection(url: str) -> None:
    for request in (head("/early", Content_Length=10**9), head("/early", Transfer_Encoding="chunked")):
        with connect(url) as connection:
            connection.sendall(request)
            read_answer(connection)
            started = time.monotonic()
            with pytest.raises(ConnectionError):
                while time.monotonic() < started + 8 * PATIENCE_S:
                    connection.sendall(b"1\r\na\r\n" * 100_000)
            assert time.monotonic() < started + 6 * PATIENCE_S


def test_a_body_that_ends_after_the_answer_leaves_the_connection_usable(url: str) -> None:
    with connect(url) as connection:
        connection.sendall(head("/early", Content_Length=10))
        assert read_answer(connection) == b"1"
        connection.sendall(bytes(10) + HEADER)
        assert read_answer(connection) == b"2"


def test_an_upgrade_to_a_websocket_without_an_application_for_it_ends(url: str) -> None:
    key = "c2l4dGVlbiBieXRlcyBsLg=="
    upgrade = head(
        "/", "GET", Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Version=13, Sec_WebSocket_Key=key
    )
    with connect(url) as connection:
        connection.sendall(upgrade)
        seconds_until_closed(connection)


def test_memory_is_given_back_once_many_connections_are_gone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given_back = threading.Event()
    monkeypatch.setattr(protocol, "MANY_CONNECTIONS", 20)
    monkeypatch.setattr(protocol, "give_memory_back", given_back.set)
    with hostile.held_open(url, 15):
        time.sleep(0.1)
    assert not given_back.wait(1.5)
    with hostile.held_open(url, 30):
        time.sleep(0.1)
    assert given_back.wait(5)


def test_a_process_that_may_open_few_files_has_fewer_connections() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (600, {hard}));"
        "from emage.serving.http.transport import protocol; print(protocol.max_connections())"
    )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < limits.MAX_CONNECTIONS + limits.RESERVED_FILES:
        pytest.skip("this system allows too few open files (ulimit -Hn)")
    for most, expected in ((1_000, 1_000 - limits.RESERVED_FILES), (hard, limits.MAX_CONNECTIONS)):
        command = [sys.executable, "-c", code.format(hard=most)]
        assert int(subprocess.run(command, capture_output=True, check=True).stdout) == expected
