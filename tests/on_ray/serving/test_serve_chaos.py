"""The endpoint under a little load while its processes are killed: every request gets an image or an API-form error.

A killed model is in `make faults`, the rest in `make chaos`. The programs are those that a user starts, and
recover without help.
"""

import base64
import io
import json
import os
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from programs import free_port, pipeline, start

import emage
from emage.config import ServeConfig
from emage.on_ray.serving.deployment import cpu_threads
from emage.on_ray.serving.driver import curl

pytestmark = pytest.mark.ray
REPLICA = "ray::ServeReplica:emage:"  # and the deployment's name, in the title of its process
CLIENTS, PATIENCE_S = 8, 60.0  # no request may hang longer
OTHER = "not in the API's form: "


class Server(NamedTuple):
    pid: int
    url: str

    def replicas(self, deployment: str) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.pid).children(recursive=True):
            try:  # a busy one's title continues with what it is doing
                title = " ".join(process.cmdline()).strip().partition(".")[0]
            except psutil.Error:  # it has just ended
                continue
            found += [process] if title == REPLICA + deployment else []
        return found


class Answer(NamedTuple):
    started: float
    ended: float
    outcome: str  # "200", or status and code of an error in the API's form, or what else it was

    @property
    def is_clean(self) -> bool:
        return self.outcome[:3].isdigit()


@contextmanager
def serving(model: Path, log: Path, **settings: object) -> Iterator[Server]:
    """Run the program until the block ends; then end it, whatever is left of it."""
    port = free_port()
    own = [f"{key}={value}" for key, value in {"timeout_s": 20, **settings}.items()]
    command = pipeline("serve", "demo", f"checkpoint={model}", f"port={port}", "mlflow.enabled=false", *own)
    process = start(command, RAY_ADDRESS="")
    lines: list[str] = []
    reading = threading.Thread(target=lambda: lines.extend(iter(process.stdout.readline, "")), daemon=True)
    reading.start()
    try:
        deadline = time.monotonic() + 200
        while not any(line.startswith("ready: ") for line in lines):
            assert process.poll() is None and time.monotonic() < deadline, "".join(lines)[-4000:]
            time.sleep(0.1)
        yield Server(process.pid, f"http://127.0.0.1:{port}")
    finally:
        log.write_text("".join(lines))
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tiny_model, tmp_path_factory.mktemp("serve") / "log") as server:
        yield server


def ask(client: httpx.Client, number: int, **settings: object) -> Answer:
    started = time.monotonic()
    try:
        answer = client.post("/v1/images/generations", json={"prompt": "a red square", "seed": number, **settings})
        outcome = outcome_of(answer)
    except httpx.TimeoutException:
        outcome = "it hangs"
    except httpx.TransportError as error:
        outcome = type(error).__name__
    return Answer(started, time.monotonic(), outcome)


def outcome_of(answer: httpx.Response) -> str:
    try:
        if answer.status_code == 200:
            Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))).load()
            return "200"
        error = answer.json()["error"]
        if set(error) == {"message", "type", "param", "code"} and "Traceback" not in error["message"]:
            return f"{answer.status_code} {error['code']}"
    except (ValueError, LookupError, json.JSONDecodeError):
        pass
    return f"{OTHER}{answer.status_code} {answer.text[:100]}"


class Load:
    """Clients that each ask for an image when they have their last answer, for as long as the block runs."""

    def __init__(self, url: str, **settings: object):
        self.answers: list[Answer] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._client, args=(url, i, settings)) for i in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(2 * PATIENCE_S)
            assert not thread.is_alive()

    def _client(self, url: str, number: int, settings: dict[str, object]) -> None:
        with httpx.Client(base_url=url, timeout=PATIENCE_S) as client:
            while not self._over.is_set():
                answer = ask(client, number, **settings)
                self.answers.append(answer)
                if answer.outcome != "200":
                    time.sleep(0.2)

    def until(self, enough: int, since: float = 0.0, seconds: float = 120.0) -> None:
        """Waits until so many requests begun after `since` have got their images."""
        deadline = time.monotonic() + seconds
        while sum(answer.outcome == "200" and answer.started > since for answer in self.answers) < enough:
            assert time.monotonic() < deadline, Counter(answer.outcome for answer in self.answers)
            time.sleep(0.05)


def outcomes(answers: list[Answer]) -> dict[str, int]:
    return dict(Counter(answer.outcome for answer in answers))


@pytest.mark.parametrize(
    "deployment", [pytest.param("Model", marks=pytest.mark.faults), pytest.param("Frontend", marks=pytest.mark.chaos)]
)
def test_a_killed_replica_leaves_no_request_without_an_answer(server: Server, deployment: str) -> None:
    with Load(server.url, steps=16) as load:
        load.until(20)
        (victim,) = server.replicas(deployment)
        killed = time.monotonic()
        victim.kill()
        load.until(20, since=killed)
    assert all(answer.is_clean for answer in load.answers), outcomes(load.answers)
    if deployment == "Model":  # another replica generates the images it was generating
        assert outcomes(load.answers) == {"200": len(load.answers)}
    else:  # each client had one request there
        assert sum(answer.outcome != "200" for answer in load.answers if answer.started < killed) <= CLIENTS
    assert max(answer.ended - answer.started for answer in load.answers) < PATIENCE_S
    (other,) = server.replicas(deployment)
    assert other.pid != victim.pid
    assert httpx.get(f"{server.url}/health", timeout=10).status_code == 200
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        assert outcomes([ask(client, number) for number in range(10)]) == {"200": 10}


@pytest.mark.chaos
def test_the_printed_curl_line_returns_the_models_image(server: Server, tiny_model: Path, tmp_path: Path) -> None:
    line = curl(server.url)
    subprocess.run(line, shell=True, cwd=tmp_path, check=True, timeout=60)
    prompt = json.loads(line.partition("-d '")[2].partition("'")[0])["prompt"]
    before = torch.get_num_threads()
    torch.set_num_threads(cpu_threads(ServeConfig()))  # another number may round otherwise
    expected = emage.Emage.from_pretrained(str(tiny_model), device="cpu").generate([prompt], seed=7)[0]
    torch.set_num_threads(before)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "image.png")), np.asarray(expected))


@pytest.mark.chaos
def test_sigterm_lets_accepted_requests_finish(tiny_model: Path, tmp_path: Path) -> None:
    """No image is lost: requests are answered until the port is closed, and then connections are refused."""
    with serving(tiny_model, tmp_path / "log") as server:
        program = psutil.Process(server.pid)
        with Load(server.url, steps=64, n=2) as load:
            load.until(CLIENTS)
            asked = time.monotonic()
            program.send_signal(signal.SIGTERM)
            time.sleep(3)
        gone = program.wait(60)
    accepted = [answer for answer in load.answers if answer.started < asked]
    later = [answer for answer in load.answers if answer.started >= asked]
    assert outcomes(accepted) == {"200": len(accepted)}
    assert any(answer.ended > asked for answer in accepted)  # some were being generated
    closed = ("ConnectError", "ReadError", "RemoteProtocolError")  # while the port closes
    assert all(answer.is_clean or answer.outcome in closed for answer in later), outcomes(later)
    assert gone == 0
