"""Secrets planted in settings that may hold an address are nowhere: terminal, MLflow, output folders, checkpoints."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow_runs import in_folder
from programs import free_port

from emage import config
from emage.config import MLflowConfig
from emage.data.token_table import TokenTable
from emage.model import checkpoint
from emage.on_ray import launch, mlflow_model, tracking
from emage.on_ray.ingest import driver as ingest
from emage.on_ray.training import driver as train
from emage.on_ray.training.recorder import TrainingRecorder
from emage.training.engine import BareEngine, Objective
from emage.utils.errors import InputError

SECRET = "Pl4nted"  # part of every planted secret
QUERY = "&".join(f"{name}={SECRET}a/b%20c" for name in ("sig", "secret_key", "token", "X-Amz-Signature", "account_key"))
# Nothing listens on this port.
ADDRESSES = {
    "user": f"s3://AKIA:{SECRET}@bucket/table.csv?endpoint_override=127.0.0.1:1&scheme=http",
    "at": f"s3://AKIA:{SECRET}@{SECRET}@bucket/table.csv?endpoint_override=127.0.0.1:1&scheme=http",
    "slash": f"s3://AKIA:{SECRET}/and {SECRET}@bucket/table.csv?endpoint_override=127.0.0.1:1&scheme=http",
    "query": f"s3://bucket/table.csv?endpoint_override=127.0.0.1:1&{QUERY}",
}
each_address = pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("EMAGE_API_KEY", "HF_TOKEN", "RAY_AUTH_TOKEN"):  # of an endpoint: serving/test_planted_keys.py
        monkeypatch.setenv(name, f"{SECRET}-{name}-0123456789")


def assert_not_in(folder: Path) -> None:
    """Fail if a file of the folder, or its name, holds the secret."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert files
    assert [str(path) for path in files if SECRET.encode() in path.read_bytes() or SECRET in str(path)] == []


@each_address
@pytest.mark.parametrize("line", ["ingest tiny source.table=ADDRESS output=out", "train tiny data.path=ADDRESS"])
def test_the_terminal(line: str, address: str, run_command: Callable[..., subprocess.CompletedProcess[str]]):
    words = [word.replace("ADDRESS", f"'{address}'") for word in line.split()]
    uri = f"http://me:{SECRET}@127.0.0.1:1?password={SECRET}"
    more = ["run.output=out"] if words[0] == "train" else []
    done = run_command(*words, *more, f"mlflow.uri={uri}")
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert "mlflow:" in done.stdout and "127.0.0.1:1" in done.stdout + done.stderr
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("word", ["output=s3://AKIA:{}@bucket/out", "colour=s3://AKIA:{}@bucket"])
def test_the_error_of_a_setting(word: str, run_command: Callable[..., subprocess.CompletedProcess[str]]):
    done = run_command("ingest", "tiny", "source.table=urls.csv", "output=out", word.format(SECRET))
    assert done.returncode == 2 and SECRET not in done.stdout + done.stderr


def planted_ingest(address: str, output: Path) -> config.IngestConfig:
    more = {"more": {"table": address, "dataset": "more"}}
    mlflow = {"uri": f"https://me:{SECRET}@tracking.invalid/?token={SECRET}"}
    return config.preset(
        config.IngestConfig, "tiny", output=str(output), source={"table": address}, more=more, mlflow=mlflow
    )


@each_address
def test_the_output_folder_of_an_ingest(address: str, tmp_path: Path):
    settings = planted_ingest(address, tmp_path / "out")
    launch.manifest.claim_output(tmp_path / "out", "ingest", ingest._identity(settings))
    assert_not_in(tmp_path / "out")
    changed = planted_ingest(address.replace(SECRET, "changed"), tmp_path / "out")
    launch.check_output(tmp_path / "out", "ingest", ingest._identity(changed))  # a new password is no other run
    other = replace(changed, source=replace(changed.source, table=changed.source.table.replace("bucket", "other")))
    with pytest.raises(InputError, match=r"already holds a run with source\.table=s3://") as error:
        launch.check_output(tmp_path / "out", "ingest", ingest._identity(other))
    assert "changed" not in str(error.value)


@each_address
def test_mlflow(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = planted_ingest(address, tmp_path / "out")
    settings = replace(settings, mlflow=replace(settings.mlflow, artifacts=f"{tmp_path}/artifacts"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", in_folder(tmp_path).uri)
    with tracking.start(settings.mlflow, stage="ingest", settings=settings, run_file=tmp_path / "mlflow.json") as run:
        run.metrics({"rows_in": 1.0})
    assert run.id and list(tmp_path.glob("artifacts/*/artifacts/config.yaml"))
    assert_not_in(tmp_path)


def test_a_server_that_does_not_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    uri = f"http://me:{SECRET}@127.0.0.1:{free_port()}"
    settings = planted_ingest(ADDRESSES["user"], tmp_path)
    with tracking.start(MLflowConfig(uri=uri), stage="ingest", settings=settings):
        pass
    assert "MLflow at http://***@127.0.0.1:" in caplog.text and SECRET not in caplog.text


def test_the_run_file_of_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The run is found again with another password, or one that an older version recorded."""
    writer = tracking.MlflowWriter(
        MLflowConfig(uri=f"http://me:{SECRET}@host:5000", enabled=False),
        stage=None,
        run_file=tmp_path / "mlflow.json",
        parent=None,
    )
    monkeypatch.setattr(writer, "_reopen", lambda client, run_id: run_id)
    for recorded in (f"http://me:{SECRET}@host:5000", "http://me:before@host:5000", "http://***@host:5000"):
        launch.manifest.write_json(tmp_path / "mlflow.json", {"uri": recorded, "run": "abc"})
        assert writer._open(None) == "abc"  # type: ignore[arg-type]
    monkeypatch.setattr(writer, "_create", lambda client: "new")
    launch.manifest.write_json(tmp_path / "mlflow.json", {"uri": "http://***@another:5000", "run": "abc"})
    writer._stage = "train"
    assert writer._open(None) == "new"  # type: ignore[arg-type]
    assert json.loads((tmp_path / "mlflow.json").read_text()) == {"uri": "http://***@host:5000", "run": "new"}


def test_a_checkpoint(token_table: Path, tmp_path: Path):
    """A training is continued with the table in object storage; what it saves names the table without its secret."""
    settings = config.preset(
        config.TrainConfig,
        "tiny",
        data={"path": str(token_table)},
        run={"output": str(tmp_path / "run"), "prompts": ["a red circle"]},
        mlflow={"enabled": False},
    )
    table = TokenTable(str(token_table), 0)
    parts = settings.checkpoint_config(table.tokenizer.vocab_size, table.tokenizer.grid)
    torch.manual_seed(0)
    network = checkpoint.build(parts)
    engine = BareEngine(Objective(network, settings.method, settings.objective), settings.optim)
    (tmp_path / "run").mkdir()
    address = f"file://{token_table}?token={SECRET}"
    planted = replace(settings, data=replace(settings.data, path=address))
    recorder = TrainingRecorder(planted, tmp_path / "run", engine, network, parts, start=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("emage.data.schema.fingerprint", lambda path: "0" * 64)  # it would read the address
        recorder.finish(table)
    recorder.close()
    mlflow_model.save(tmp_path / "run" / "model", tmp_path / "run" / "mlflow_model")
    assert_not_in(tmp_path / "run")
    assert train._identity(settings)["data"]["table"]
