"""What a stage records and where it is stored: SQLite and a folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_runs import in_folder, ingest_config, rows, run_status
from PIL import Image

from emage.config import IngestConfig, MLflowConfig, from_yaml
from emage.on_ray import tracking


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_everything_is_written_to_the_configured_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert run_status(runs, run.id) == "FINISHED"
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "report.txt"}


@pytest.mark.parametrize(("error", "expected"), [(ValueError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_the_status_is_how_the_block_ended(tmp_path: Path, error: type[BaseException], expected: str) -> None:
    config = ingest_config(in_folder(tmp_path))
    with pytest.raises(error), tracking.start(config.mlflow, stage="ingest", settings=config) as run:
        raise error
    assert run_status(tmp_path, run.id) == expected


def test_another_process_continues_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    worker = (
        "import sys; from pathlib import Path\n"
        "from emage.config import MLflowConfig; from emage.on_ray import tracking\n"
        "with tracking.attach(MLflowConfig(uri=sys.argv[1]), Path(sys.argv[2])) as run:\n"
        "    run.metrics({'loss': 2.5}, step=7)"
    )
    config, run_file = ingest_config(MLflowConfig()), tmp_path / "mlflow.json"
    with tracking.start(config.mlflow, stage="train", settings=config, run_file=run_file) as run:
        elsewhere = tmp_path / "elsewhere"  # a Ray worker has another working folder
        elsewhere.mkdir()
        root = str(Path(tracking.__file__).parents[2])
        command = [sys.executable, "-c", worker, run.config.uri, str(run_file)]
        subprocess.run(command, cwd=elsewhere, env={**os.environ, "PYTHONPATH": root}, check=True)
        assert run_status(tmp_path / "runs", run.id) == "RUNNING"
    assert rows(tmp_path / "runs", "select run_uuid, key, value, step from metrics") == [(run.id, "loss", 2.5, 7)]
    assert rows(tmp_path / "runs", "select count(*) from runs") == [(1,)]
    assert not list(elsewhere.iterdir())


def test_a_restarted_driver_continues_its_run_and_records_no_step_twice(tmp_path: Path) -> None:
    """As after a kill at step 7 with a checkpoint of step 5: steps 6 and 7 are run again."""
    config, run_file = ingest_config(in_folder(tmp_path)), tmp_path / "mlflow.json"
    for first, last in ((1, 7), (6, 9)):
        with tracking.start(config.mlflow, stage="train", settings=config, run_file=run_file) as run:
            with tracking.attach(run.config, run_file) as same:
                for step in range(first, last + 1):
                    same.metrics({"loss": 1.0 / step}, step=step)
            assert run_status(tmp_path, run.id) == "RUNNING"
    found = rows(tmp_path, "select step, value from metrics where key = 'loss' order by step, value")
    assert found == [(step, 1.0 / step) for step in range(1, 10)]
    assert rows(tmp_path, "select status from runs") == [("FINISHED",)]
    other = tmp_path / "other.json"
    with tracking.start(config.mlflow, stage="train", settings=config, run_file=other):
        pass
    assert rows(tmp_path, "select count(*) from runs") == [(2,)]


def test_a_run_may_be_the_child_of_another(tmp_path: Path) -> None:
    config = ingest_config(in_folder(tmp_path))
    with tracking.start(config.mlflow, stage="train", settings=config) as above:
        above.metrics({"loss": 1.0})
    with tracking.start(config.mlflow, stage="evaluate", settings=config, parent=above.id) as below:
        below.metrics({"fid": 20.0})
    query = "select value from tags where run_uuid = ? and key = 'mlflow.parentRunId'"
    assert rows(tmp_path, query, below.id) == [(above.id,)] and rows(tmp_path, query, above.id) == []


def test_attach_without_the_database_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tracking.attach(in_folder(tmp_path), tmp_path / "mlflow.json") as run:
        run.metrics({"loss": 1.0})
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert not list(tmp_path.iterdir())


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
    monkeypatch.setenv("MLFLOW_TRACKING_URI", in_folder(tmp_path).uri)
    with tracking.start(config.mlflow, stage="ingest", settings=config):
        pass
    assert rows(tmp_path, "select value from params where key = 'mlflow.uri'") == [("https://***@tracking.invalid",)]
    (recorded,) = tmp_path.glob("artifacts/*/artifacts/config.yaml")
    assert "secret" not in recorded.read_text()
