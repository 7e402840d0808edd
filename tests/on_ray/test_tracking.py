"""Runs in SQLite and on a real server: what lands where, and that no trouble of the store reaches a stage."""

import json
import logging
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from emage.config import IngestConfig, MLflowConfig, from_yaml, preset
from emage.on_ray import tracking


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def ingest_config(mlflow: MLflowConfig) -> IngestConfig:
    values = {"uri": mlflow.uri, "artifacts": mlflow.artifacts, "enabled": mlflow.enabled}
    return preset(IngestConfig, "tiny", output="out", source={"table": "urls.csv", "dataset": "x" * 600}, mlflow=values)


def embedded(folder: Path) -> MLflowConfig:
    return MLflowConfig(uri=f"sqlite:///{folder}/mlflow.db", artifacts=f"{folder}/artifacts")


def rows(folder: Path, query: str, *values: object) -> list[Any]:
    with sqlite3.connect(folder / "mlflow.db") as database:
        return database.execute(query, values).fetchall()


def status(folder: Path, run_id: str | None) -> str:
    return rows(folder, "select status from runs where run_uuid = ?", run_id)[0][0]


# --- The embedded default: SQLite and a folder ------------------------------------------------------------------------


def test_everything_lands_in_the_configured_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ingest_config(MLflowConfig())  # relative paths: the defaults
    report = tmp_path / "report.txt"
    report.write_text("reconciled")
    with tracking.start(config.mlflow, stage="ingest", settings=config) as run:
        run.metrics({"rows_in": 100})
        run.metrics({"loss": float("nan")}, step=3)
        run.table("rejected.json", {"rule": ["too_short"], "count": [7]})
        run.image("samples/step_000500.png", Image.new("RGB", (8, 8), "red"))
        run.text("report.md", "# report")
        run.file(report, folder="files")
    runs = tmp_path / "runs"
    (artifacts,) = (runs / "mlflow-artifacts").glob(f"{run.id}/artifacts")
    files = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file()}
    assert files == {"config.yaml", "rejected.json", "samples/step_000500.png", "report.md", "files/report.txt"}
    assert from_yaml(IngestConfig, (artifacts / "config.yaml").read_text()) == config
    assert json.loads((artifacts / "rejected.json").read_text())["data"] == [["too_short", 7]]
    assert Image.open(artifacts / "samples/step_000500.png").getpixel((0, 0)) == (255, 0, 0)
    params = dict(rows(runs, "select key, value from params where run_uuid = ?", run.id))
    assert params["download.shard_rows"] == "1000"
    assert params["source.caption"] == '["caption"]'
    assert params["source.dataset"] == "x" * 500
    metrics = rows(runs, "select key, value, step, is_nan from metrics where run_uuid = ?", run.id)
    assert sorted(metrics) == [("loss", 0.0, 3, 1), ("rows_in", 100.0, 0, 0)]
    assert status(runs, run.id) == "FINISHED"
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "report.txt"}


@pytest.mark.parametrize(("error", "expected"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_status_says_how_the_block_ended(tmp_path: Path, error: type[BaseException], expected: str) -> None:
    config = ingest_config(embedded(tmp_path))
    with pytest.raises(error), tracking.start(config.mlflow, stage="ingest", settings=config) as run:
        raise error
    assert status(tmp_path, run.id) == expected


def test_another_process_continues_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    worker = (
        "import sys; from pathlib import Path\n"
        "from emage.config import MLflowConfig; from emage.on_ray import tracking\n"
        "with tracking.attach(MLflowConfig(uri=sys.argv[1]), Path(sys.argv[2])) as run:\n"
        "    run.metrics({'loss': 2.5}, step=7)"
    )
    config, record = ingest_config(MLflowConfig()), tmp_path / "mlflow.json"
    with tracking.start(config.mlflow, stage="train", settings=config, run_file=record) as run:
        elsewhere = tmp_path / "elsewhere"  # a Ray worker has another working folder
        elsewhere.mkdir()
        root = str(Path(tracking.__file__).parents[2])
        command = [sys.executable, "-c", worker, run.config.uri, str(record)]
        subprocess.run(command, cwd=elsewhere, env={**os.environ, "PYTHONPATH": root}, check=True)
        assert status(tmp_path / "runs", run.id) == "RUNNING"
    assert rows(tmp_path / "runs", "select run_uuid, key, value, step from metrics") == [(run.id, "loss", 2.5, 7)]
    assert rows(tmp_path / "runs", "select count(*) from runs") == [(1,)]
    assert not list(elsewhere.iterdir())


def test_a_driver_that_begins_again_goes_on_with_its_run_and_records_no_step_twice(tmp_path: Path) -> None:
    """As after a kill at step 7 with a checkpoint of step 5: steps 6 and 7 are taken again."""
    config, record = ingest_config(embedded(tmp_path)), tmp_path / "mlflow.json"
    for first, last in ((1, 7), (6, 9)):
        with tracking.start(config.mlflow, stage="train", settings=config, run_file=record) as run:
            with tracking.attach(run.config, record) as same:
                for step in range(first, last + 1):
                    same.metrics({"loss": 1.0 / step}, step=step)
            assert status(tmp_path, run.id) == "RUNNING"
    found = rows(tmp_path, "select step, value from metrics where key = 'loss' order by step, value")
    assert found == [(step, 1.0 / step) for step in range(1, 10)]
    assert rows(tmp_path, "select status from runs") == [("FINISHED",)]
    other = tmp_path / "other.json"
    with tracking.start(config.mlflow, stage="train", settings=config, run_file=other):
        pass
    assert rows(tmp_path, "select count(*) from runs") == [(2,)]


def test_a_run_may_stand_below_another(tmp_path: Path) -> None:
    config = ingest_config(embedded(tmp_path))
    with tracking.start(config.mlflow, stage="train", settings=config) as above:
        above.metrics({"loss": 1.0})
    with tracking.start(config.mlflow, stage="evaluate", settings=config, parent=above.id) as below:
        below.metrics({"fid": 20.0})
    query = "select value from tags where run_uuid = ? and key = 'mlflow.parentRunId'"
    assert rows(tmp_path, query, below.id) == [(above.id,)] and rows(tmp_path, query, above.id) == []


def test_attach_without_the_database_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tracking.attach(embedded(tmp_path), tmp_path / "mlflow.json") as run:
        run.metrics({"loss": 1.0})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert not list(tmp_path.iterdir())


def test_records_wait_for_a_store_that_is_away(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setattr(tracking, "RETRY_S", 0.1)
    config = ingest_config(embedded(tmp_path))
    with tracking.start(config.mlflow, stage="ingest", settings=config) as run, monkeypatch.context() as outage:
        outage.setattr(MlflowClient, "log_batch", _unreachable)
        for step in range(20):
            run.metrics({"loss": 1.0}, step)
        while not caplog.records:
            time.sleep(0.01)
    assert rows(tmp_path, "select step from metrics order by step") == [(step,) for step in range(20)]
    assert status(tmp_path, run.id) == "FINISHED"
    assert len(caplog.records) == 1


def _unreachable(*_: object, **__: object) -> None:
    raise ConnectionError("no route to host")


def test_a_refused_record_does_not_hold_up_the_rest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ingest_config(embedded(tmp_path))
    with tracking.start(config.mlflow, stage="ingest", settings=config) as run:
        run.metrics({"no such $ name": 1.0})
        run.file(tmp_path / "absent.txt")
        run.metrics({"rows_in": 1.0})
    assert rows(tmp_path, "select key from metrics") == [("rows_in",)]
    assert status(tmp_path, run.id) == "FINISHED"
    assert len(caplog.records) == 1


def test_disabled_records_nothing(tmp_path: Path) -> None:
    config = ingest_config(MLflowConfig(f"sqlite:///{tmp_path}/mlflow.db", f"{tmp_path}/artifacts", enabled=False))
    with tracking.start(config.mlflow, stage="ingest", settings=config) as run:
        run.metrics({"rows_in": 100})
        run.image("a.png", Image.new("RGB", (8, 8)))
        with tracking.attach(run.config, tmp_path / "mlflow.json") as same:
            same.text("a.txt", "a")
    assert run.id is None
    assert not list(tmp_path.iterdir())


def test_passwords_are_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = ingest_config(MLflowConfig(uri="https://me:secret@tracking.invalid", artifacts=f"{tmp_path}/artifacts"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", embedded(tmp_path).uri)
    with tracking.start(config.mlflow, stage="ingest", settings=config):
        pass
    assert rows(tmp_path, "select value from params where key = 'mlflow.uri'") == [("https://***@tracking.invalid",)]
    (recorded,) = tmp_path.glob("artifacts/*/artifacts/config.yaml")
    assert "secret" not in recorded.read_text()


# --- A server ---------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


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


@pytest.mark.faults
def test_a_run_is_read_back_over_rest(
    server: tuple[str, subprocess.Popen], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server[0]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    config, record = ingest_config(MLflowConfig()), tmp_path / "mlflow.json"
    with tracking.start(config.mlflow, stage="ingest", settings=config, run_file=record) as run:
        run.metrics({"rows_in": 100})
        run.image("samples/a.png", Image.new("RGB", (8, 8), "blue"))
        with tracking.attach(run.config, record) as same:
            same.metrics({"loss": 2.5}, step=7)
    assert run.config.uri == url
    found = rest(url, f"/runs/get?run_id={run.id}")["run"]
    assert found["info"]["status"] == "FINISHED"
    assert {metric["key"]: metric["value"] for metric in found["data"]["metrics"]} == {"rows_in": 100, "loss": 2.5}
    assert {"key": "download.shard_rows", "value": "1000"} in found["data"]["params"]
    files = [file["path"] for file in rest(url, f"/artifacts/list?run_id={run.id}")["files"]]
    assert files == ["config.yaml", "samples"]
    assert list(tmp_path.iterdir()) == [record]


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
    assert "is away" in warning.getMessage() and "\n" not in warning.getMessage()


def test_a_server_that_was_never_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ingest_config(MLflowConfig(uri=f"http://127.0.0.1:{free_port()}", artifacts=f"{tmp_path}/artifacts"))
    began = time.monotonic()
    record = tmp_path / "mlflow.json"
    with tracking.start(config.mlflow, stage="train", settings=config, run_file=record) as run:
        assert run.id is None
        with tracking.attach(run.config, record) as same:
            same.metrics({"loss": 1.0})
    assert time.monotonic() - began < 5
    assert len(caplog.records) == 2 and not record.exists()


def test_a_store_that_comes_later_gets_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Away when training begins: the driver's run and the worker's first metrics are there in the end."""
    monkeypatch.setattr(tracking, "RETRY_S", 0.2)
    folder = tmp_path / "store"
    folder.write_text("in the way of the database")
    config, record = ingest_config(embedded(folder)), tmp_path / "mlflow.json"
    with tracking.start(config.mlflow, stage="train", settings=config, run_file=record) as run:
        assert run.id is None
        folder.unlink()
        while not record.exists():  # the test's own time limit bounds it
            time.sleep(0.05)
        with tracking.attach(run.config, record) as same:
            same.metrics({"loss": 1.0}, step=3)
    assert rows(folder, "select key, step from metrics") == [("loss", 3)]
    assert status(folder, run.id) == "FINISHED"
