"""No trouble of the tracking server reaches a stage; records that wait are written when it answers again."""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow_runs import in_folder, ingest_config, rows, run_status
from PIL import Image
from programs import free_port

from emage.config import MLflowConfig
from emage.on_ray import mlflow_writer, tracking


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen]]:
    """The URL and the process of a real `mlflow server`, in a process group of its own."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/server.db", "--artifacts-destination", f"{folder}/files"]
    with open(folder / "log", "w") as log:
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=folder, env=environment)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
    while True:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            break
        except (urllib.error.URLError, OSError):
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
    yield url, process
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rest(url: str, path: str) -> Any:
    with urllib.request.urlopen(f"{url}/api/2.0/mlflow{path}", timeout=10) as answer:
        return json.load(answer)


def test_records_wait_for_an_unreachable_server(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(mlflow_writer, "RETRY_S", 0.1)
    config = ingest_config(in_folder(tmp_path))
    with tracking.start(config.mlflow, stage="ingest", settings=config) as run, monkeypatch.context() as outage:
        outage.setattr(MlflowClient, "log_batch", _unreachable)
        for step in range(20):
            run.metrics({"loss": 1.0}, step)
        while not caplog.records:
            time.sleep(0.01)
    assert rows(tmp_path, "select step from metrics order by step") == [(step,) for step in range(20)]
    assert run_status(tmp_path, run.id) == "FINISHED"
    assert len(caplog.records) == 1


def _unreachable(*_: object, **__: object) -> None:
    raise ConnectionError("no route to host")


def test_a_rejected_record_does_not_block_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ingest_config(in_folder(tmp_path))
    with tracking.start(config.mlflow, stage="ingest", settings=config) as run:
        run.metrics({"no such $ name": 1.0})
        run.file(tmp_path / "absent.txt")
        run.metrics({"rows_in": 1.0})
    assert rows(tmp_path, "select key from metrics") == [("rows_in",)]
    assert run_status(tmp_path, run.id) == "FINISHED"
    assert len(caplog.records) == 1


@pytest.mark.faults
def test_a_run_is_read_back_over_rest(
    server: tuple[str, subprocess.Popen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    config, run_file = ingest_config(MLflowConfig()), tmp_path / "mlflow.json"
    with tracking.start(config.mlflow, stage="ingest", settings=config, run_file=run_file) as run:
        run.metrics({"rows_in": 100})
        run.image("samples/a.png", Image.new("RGB", (8, 8), "blue"))
        with tracking.attach(run.config, run_file) as same:
            same.metrics({"loss": 2.5}, step=7)
    assert run.config.uri == url
    found = rest(url, f"/runs/get?run_id={run.id}")["run"]
    assert found["info"]["status"] == "FINISHED"
    assert {metric["key"]: metric["value"] for metric in found["data"]["metrics"]} == {"rows_in": 100, "loss": 2.5}
    assert {"key": "download.shard_rows", "value": "1000"} in found["data"]["params"]
    files = [file["path"] for file in rest(url, f"/artifacts/list?run_id={run.id}")["files"]]
    assert files == ["config.yaml", "samples"]
    assert list(tmp_path.iterdir()) == [run_file]


@pytest.mark.faults
def test_the_password_of_a_server_is_recorded_nowhere(server: tuple[str, subprocess.Popen], tmp_path: Path) -> None:
    """Neither on the server nor in the run file; with another password the run is continued."""
    url, run_file, seen = server[0], tmp_path / "mlflow.json", set()
    for password in ("Pl4nted", "Pl4nted@2"):
        address = url.replace("://", f"://me:{password}@")
        config = ingest_config(MLflowConfig(uri=address))
        with tracking.start(config.mlflow, stage="train", settings=config, run_file=run_file) as run:
            run.metrics({"rows_in": 100})
        seen.add(run.id)
        assert json.loads(run_file.read_text()) == {"uri": url.replace("://", "://***@"), "run": run.id}
    assert len(seen) == 1 and None not in seen
    found = rest(url, f"/runs/get?run_id={run.id}")
    assert {"key": "rows_in", "value": 100.0} in [
        {key: metric[key] for key in ("key", "value")} for metric in found["run"]["data"]["metrics"]
    ]
    assert "mlflow.uri" in json.dumps(found) and "Pl4nted" not in json.dumps(found)
    with urllib.request.urlopen(f"{url}/get-artifact?run_id={run.id}&path=config.yaml", timeout=10) as answer:
        text = answer.read().decode()
    assert "***@127.0.0.1" in text and "Pl4nted" not in text


@pytest.mark.faults
def test_killing_the_server_costs_one_warning(
    server: tuple[str, subprocess.Popen], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, process = server  # the last test that has it
    config = ingest_config(MLflowConfig(uri=url, artifacts=f"{tmp_path}/artifacts"))
    began = time.monotonic()
    with caplog.at_level(logging.WARNING), tracking.start(config.mlflow, stage="train", settings=config) as run:
        run.metrics({"loss": 3.0}, step=0)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for step in range(1, 1000):
            run.metrics({"loss": 3.0}, step)
        run.image("samples/a.png", Image.new("RGB", (64, 64)))
    assert time.monotonic() - began < 5
    (warning,) = caplog.records
    assert "is unreachable" in warning.getMessage() and "\n" not in warning.getMessage()


def test_a_server_that_never_answers(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ingest_config(MLflowConfig(uri=f"http://127.0.0.1:{free_port()}", artifacts=f"{tmp_path}/artifacts"))
    began = time.monotonic()
    run_file = tmp_path / "mlflow.json"
    with tracking.start(config.mlflow, stage="train", settings=config, run_file=run_file) as run:
        assert run.id is None
        with tracking.attach(run.config, run_file) as same:
            same.metrics({"loss": 1.0})
    assert time.monotonic() - began < 5
    assert len(caplog.records) == 2 and not run_file.exists()


def test_a_server_that_comes_later_gets_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver's run and the worker's first metrics are recorded, though the server was unreachable at the start."""
    monkeypatch.setattr(mlflow_writer, "RETRY_S", 0.2)
    folder = tmp_path / "mlflow"
    folder.write_text("in the way of the database")
    config, run_file = ingest_config(in_folder(folder)), tmp_path / "mlflow.json"
    with tracking.start(config.mlflow, stage="train", settings=config, run_file=run_file) as run:
        assert run.id is None
        folder.unlink()
        while not run_file.exists():  # the test's own time limit bounds it
            time.sleep(0.05)
        with tracking.attach(run.config, run_file) as same:
            same.metrics({"loss": 1.0}, step=3)
    assert rows(folder, "select key, step from metrics") == [("loss", 3)]
    assert run_status(folder, run.id) == "FINISHED"
