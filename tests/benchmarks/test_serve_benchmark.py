"""The serving benchmark: what it counts, its client against a misbehaving server, its command line."""

import asyncio
import base64
import http.server
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import ClassVar

import numpy as np
import pytest

SCRIPT = "serve.py"
PNG = b"an image"


class Moody(http.server.BaseHTTPRequestHandler):
    """By the seed of a request: an image, come again (once each), an error, a page of HTML, nothing at all."""

    protocol_version = "HTTP/1.1"
    refused: ClassVar[set[int]] = set()

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        seed = body["seed"]
        if body.get("stream"):
            self.answer(
                200,
                b"".join(f"event: image_generation.{what}\ndata: {{}}\n\n".encode() for what in body["prompt"].split()),
            )
        elif seed % 5 == 1 and seed not in self.refused:
            self.refused.add(seed)
            self.answer(429, error("rate_limit_exceeded"), retry="0.01")
        elif seed % 5 == 2:
            self.answer(400, error("invalid_value"))
        elif seed % 5 == 3:
            self.answer(500, b"<html>Internal Server Error</html>")
        elif seed % 5 == 4:
            self.close_connection = True
        else:
            self.answer(200, json.dumps({"data": [{"b64_json": base64.b64encode(PNG).decode()}]}).encode())

    def answer(self, status: int, body: bytes, retry: str | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if retry:
            self.send_header("Retry-After", retry)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def error(code: str) -> bytes:
    return json.dumps({"error": {"message": "no", "type": "t", "param": None, "code": code}}).encode()


@pytest.fixture
def url() -> Iterator[str]:
    Moody.refused = set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Moody)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def client(benchmark: ModuleType) -> ModuleType:
    return sys.modules["serve_client"]


async def plain(session, number):
    return await sys.modules["serve_client"].ask(session, number, {"prompt": "a", "seed": number})


# --- The client -------------------------------------------------------------------------------------------------------


def test_every_request_is_counted_by_its_outcome(client: ModuleType, url: str) -> None:
    answers = asyncio.run(client.closed_loops(url, plain, range(20), clients=3, seconds=20, deadline_s=5))
    found = Counter(answer.outcome for answer in answers)
    told = {"200": 8, "429 rate_limit_exceeded": 4, "400 invalid_value": 4}
    assert found == {**told, "500 not in the API's form": 4, "ServerDisconnectedError": 4}
    assert sum(answer.is_clean for answer in answers) == sum(told.values())
    numbers = Counter(answer.number for answer in answers)
    assert numbers == {number: 2 if number % 5 == 1 else 1 for number in range(20)}  # who is refused comes again
    assert {answer.png for answer in answers if answer.outcome == "200"} == {PNG}


def test_no_requests_are_sent_after_the_time_limit(client: ModuleType) -> None:
    async def told_to_wait(session, number):
        await asyncio.sleep(0.01)
        return client.Answer(number, 0.0, 0.0, "503 not_ready", retry_after=0.01)

    started = time.monotonic()
    limits = {"clients": 4, "seconds": 0.2, "deadline_s": 5}
    answers = asyncio.run(client.closed_loops("http://127.0.0.1:9", told_to_wait, iter(int, 1), **limits))
    assert 0.2 <= time.monotonic() - started < 2
    assert len(answers) > 4


@pytest.mark.parametrize(
    ("events", "leave", "outcome"),
    [
        ("partial_image partial_image completed", False, "200 streamed"),
        ("partial_image partial_image", False, "ends with image_generation.partial_image"),
        ("partial_image completed", True, "left"),
        ("", False, "a truncated stream"),
    ],
)
def test_a_stream_is_complete_if_its_last_event_is_an_image(client, url, events, leave, outcome) -> None:
    async def once():
        async with client.open_session(url, 5) as session:
            return await client.stream(session, 0, {"prompt": events, "seed": 0}, leave)

    assert asyncio.run(once()).outcome == outcome


def test_percentiles(client: ModuleType) -> None:
    assert client.percentiles(range(101)) == {"p50": 50, "p95": 95, "p99": 99}
    assert client.percentiles([]) == {"p50": None, "p95": None, "p99": None}


# --- Summaries of the answers -----------------------------------------------------------------------------------------


def test_only_successful_requests_count_as_images(benchmark: ModuleType) -> None:
    answers = [
        benchmark.serve_faults.Answer(i, 0.0, i / 1e3, "200" if i % 2 else "429 rate_limit_exceeded") for i in range(9)
    ]
    found = benchmark.serve_speed.summary(answers, seconds=2.0)
    assert found["pictures_per_s"] == 2 and found["ms"]["p50"] == pytest.approx(4)
    assert found["outcomes"] == {"200": 4, "429 rate_limit_exceeded": 5}


def test_outcomes_after_a_kill(benchmark: ModuleType) -> None:
    answers = [
        benchmark.serve_faults.Answer(0, 0.0, 1.0, "200"),  # over before the kill at 5 s
        benchmark.serve_faults.Answer(1, 4.5, 1.0, "ServerDisconnectedError"),
        benchmark.serve_faults.Answer(2, 4.5, 3.0, "500 drawing_failed"),
        benchmark.serve_faults.Answer(3, 6.0, 0.1, "503 not_ready"),
        benchmark.serve_faults.Answer(4, 6.0, 4.0, "200"),
        benchmark.serve_faults.Answer(5, 9.0, 2.0, "200"),
    ]
    found = benchmark.serve_faults.outcomes_after(answers, killed=5.0)
    assert found["under way"] == {"ServerDisconnectedError": 1, "500 drawing_failed": 1}
    assert found["later"] == {"503 not_ready": 1, "200": 2}
    assert (found["first_picture_s"], found["slowest_s"], found["unclean"]) == (5.0, 4.0, 1)
    assert benchmark.serve_faults.outcomes_after(answers[:3], killed=5.0)["first_picture_s"] is None


def test_growth_is_that_after_the_warm_up(benchmark: ModuleType) -> None:
    counts = np.arange(0, 2000, 100)
    values = np.where(counts < 500, 50 * counts, 600 + counts * 3 / 1e3)
    assert benchmark.serve_faults.slope(counts, values, warm_up=500) == pytest.approx(3)
    values[-1] = np.nan  # a process that had ended
    assert benchmark.serve_faults.slope(counts, values, warm_up=500) == pytest.approx(3)
    assert benchmark.serve_faults.slope(counts, values, warm_up=1900) == 0


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("ray::ServeReplica:emage:Model.handle_request_with_rejection", "Model"),
        ("ray::ServeReplica:emage:Frontend   ", "Frontend"),
        ("ray::ProxyActor", "proxy"),
        ("ray::ServeController.listen_for_change", "controller"),
        ("ray::DashboardAgent", "rest of Ray"),
        ("/usr/lib/ray/gcs_server --port=1", "rest of Ray"),
    ],
)
def test_processes_are_known_by_their_titles(benchmark: ModuleType, title: str, kind: str) -> None:
    assert sys.modules["serve_program"].kind(title) == kind


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["client=[1]"], "unknown key 'client'; did you mean clients?"),
        (["parts=[speed]"], "parts=speed: must be a list, any of latency, throughput, memory, kill"),
        (["clients=[0,8]"], "clients=[0, 8]: must be a list of at least one entry, each a whole number of at least 1"),
        (["requests=0"], "requests=0: must be a whole number of at least 1"),
        (["checkpoint=demo", "server.num_replica=2"], "unknown key 'num_replica'; did you mean num_replicas?"),
    ],
)
def test_bad_input_is_one_line(benchmark: ModuleType, arguments, message, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
