"""Keys of the environment (EMAGE_API_KEY, HF_TOKEN) planted for an endpoint as users start it are nowhere to be read.

Not in an answer, on the terminal, in the logs of Ray and Serve, in the MLflow run or in a command line.
"""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest
from programs import finish, free_port, pipeline, start, status, wait_until

API_KEY, HUB_TOKEN = "Pl4nted-0123456789-key", "hf_Pl4ntedToken0123456789"
SECRETS = (API_KEY, HUB_TOKEN)
PATHS = ("/v1/models", "/v1/models/demo", "/health", "/metrics", "/openapi.json", "/docs", "/", "/none", "/-/routes")

pytestmark = [pytest.mark.ray, pytest.mark.faults]


class Found(NamedTuple):
    """What the endpoint showed, and the files that it left."""

    answers: dict[str, str]  # by request; with their headers
    commands: str  # command lines of all its processes
    terminal: str
    folders: list[Path]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Found]:
    folder, port = tmp_path_factory.mktemp("serve"), free_port()
    with tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as logs:  # a short name: Ray has sockets in it
        command = pipeline("serve", "demo", "checkpoint=demo", f"port={port}", f"mlflow.uri=sqlite:///{folder}/runs.db")
        command.append(f"mlflow.artifacts={folder}/artifacts")
        environment = {"EMAGE_API_KEY": API_KEY, "HF_TOKEN": HUB_TOKEN, "RAY_ADDRESS": "", "RAY_TMPDIR": logs}
        process = start(command, MLFLOW_TRACKING_URI="", **environment)
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: status(f"{url}/health") == 200 or process.poll() is not None, 240)
            answers = dict(requests(url))
            members = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            commands = "\n".join(" ".join(member.cmdline()) for member in members if member.is_running())
        finally:
            process.send_signal(signal.SIGTERM)
            terminal = finish(process)
        yield Found(answers, commands, terminal, [folder, Path(logs)])


def requests(url: str) -> Iterator[tuple[str, str]]:
    """Yield the answers to requests with the key, without one and with a wrong one."""
    keys = {"with the key": f"Bearer {API_KEY}", "with a wrong key": "Bearer no", "without a key": None}
    for kind, key in keys.items():
        with httpx.Client(base_url=url, headers={"Authorization": key} if key else None, timeout=60) as client:
            for path in PATHS:
                answer = client.get(path)
                yield f"{path} {kind}", f"{answer.status_code} {answer.headers} {answer.text}"
            for body in ({"prompt": "a red square", "steps": 1}, {"prompt": 1}):
                answer = client.post("/v1/images/generations", json=body)
                yield f"{body} {kind}", f"{answer.status_code} {answer.headers} {answer.text}"


def test_the_endpoint_took_the_keys(found: Found) -> None:
    """Else there would be nothing to find."""
    assert found.answers["/v1/models with the key"].startswith("200")
    assert found.answers["/v1/models without a key"].startswith("401")
    assert "ready: " in found.terminal and "pipelines/serve.py" in found.commands


def test_answers(found: Found) -> None:
    assert [name for name, text in found.answers.items() if any(secret in text for secret in SECRETS)] == []


def test_the_terminal_and_command_lines(found: Found) -> None:
    assert not any(secret in found.terminal + found.commands for secret in SECRETS)


def test_logs_and_the_mlflow_run(found: Found) -> None:
    files = [path for folder in found.folders for path in folder.rglob("*") if path.is_file()]
    assert any(path.name.startswith("gcs_server") for path in files), "Ray's logs are elsewhere"
    assert any(path.name == "runs.db" for path in files)
    wanted = [secret.encode() for secret in SECRETS]
    assert [str(path) for path in files if any(secret in path.read_bytes() for secret in wanted)] == []
