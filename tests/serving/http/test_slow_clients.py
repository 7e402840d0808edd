"""Clients that send or read slowly, in part or not at all: no other request waits for them."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import hostile
import pytest
from hostile import EDITS, GOOD, head, is_served, send
from in_process import serving

from emage.inference.pipeline import Emage
from emage.serving.http.app import Options, make_app
from emage.serving.http.auth import AccessOptions
from emage.serving.service import QueueLimits, Service

PATIENCE_S = 1.5  # for a body, here


@pytest.fixture
def patient(demo_pipe: Emage) -> Iterator[str]:
    """An endpoint that waits for a body no longer than PATIENCE_S."""
    options = Options(timeout_s=30.0, access=AccessOptions(body_timeout_s=PATIENCE_S))
    with serving(lambda: make_app(Service(demo_pipe, QueueLimits()), options)) as url:
        yield url


def dripping() -> Iterator[bytes]:
    """Yield a request whose body arrives a byte at a time and is never complete."""
    yield head(Content_Length=10_000)
    while True:
        yield b" "


def test_a_slow_body_times_out_and_delays_no_other_request(patient: str) -> None:
    with ThreadPoolExecutor(20) as pool:
        slow = [pool.submit(hostile.drip, patient, dripping(), every=0.2, within=15) for _ in range(20)]
        is_served(patient)
        for answer in (each.result() for each in slow):
            assert answer.status == 408 and answer.error["type"] == "timeout_error", answer
            assert answer.seconds > PATIENCE_S - 0.1
    is_served(patient)


def test_idle_connections_and_half_requests_delay_no_other_request(patient: str) -> None:
    starts = {b"": 200, b"POST ": 50, head(Content_Length=10)[:-2]: 50, head(Content_Length=10) + b"{": 50}
    with ExitStack() as held:
        for data, count in starts.items():
            held.enter_context(hostile.held_open(patient, count, data))
        for _ in range(3):
            is_served(patient)
    is_served(patient)


TRUNCATED = {
    "no body": head(Content_Length=1_000),
    "half a body": head(Content_Length=len(GOOD)) + GOOD[:-1],
    "half a chunk": head(Transfer_Encoding="chunked") + b"ff\r\n{",
    "half a form": head(EDITS, Content_Type="multipart/form-data; boundary=b", Content_Length=10**6) + bytes(10_000),
}


@pytest.mark.parametrize("name", TRUNCATED)
def test_a_truncated_upload_is_dropped(endpoint: str, name: str) -> None:
    for _ in range(5):
        with hostile.held_open(endpoint, 1, TRUNCATED[name]):
            pass
    answer = send(endpoint, TRUNCATED[name], finish=True)
    assert answer.status is None or 400 <= answer.status < 500, answer
    is_served(endpoint)


def test_a_client_that_never_reads_delays_no_other_request(endpoint: str) -> None:
    many = json.dumps({"prompt": "a", "n": 4, "steps": 8, "stream": True}).encode()
    with hostile.held_open(endpoint, 5, head(Content_Length=len(many)) + many):
        time.sleep(0.2)
        length = {"Content_Length": len(GOOD), "Connection": "close"}
        assert send(endpoint, head(**length) + GOOD, within=30).status == 200  # twenty images are generated before
        is_served(endpoint)
    is_served(endpoint)
