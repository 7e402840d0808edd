"""The tracking server as cluster/mlflow/compose.yaml and cluster/kubernetes/mlflow.yaml start it.

Run by `make chaos`: a real PostgreSQL, an S3 server, `mlflow server` with the files' own environment; only
addresses and passwords are this machine's. A run is recorded, backed up by the files' own command and brought back.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from programs import ROOT, free_port, status

from emage.config import MLflowConfig, TrainConfig, preset
from emage.on_ray import tracking

pytestmark = pytest.mark.chaos
PASSWORD, KEYS = "right", ("key", "secret")
MLFLOW = str(Path(sys.executable).with_name("mlflow"))


def postgres_programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no PostgreSQL server here (apt-get install postgresql)")
    return found[-1]


@pytest.fixture(scope="module")
def database() -> Iterator[int]:
    """Yield the port of a PostgreSQL with the user and the database of the files."""
    programs, port = postgres_programs(), free_port()
    other = {"user": "postgres"} if os.geteuid() == 0 else {}  # it refuses to run as root
    folder = Path(tempfile.mkdtemp())
    if other:
        shutil.chown(folder, "postgres")
    (folder / "password").write_text(PASSWORD)
    (folder / "password").chmod(0o644)

    def run(name: str, *arguments: str) -> None:
        command = [programs / name, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, **other)
        assert done.returncode == 0, done.stdout + done.stderr

    data, socket = str(folder / "data"), f"-k {folder} -h 127.0.0.1 -p {port}"
    try:
        run("initdb", "-D", data, "-U", "mlflow", "--auth=scram-sha-256", f"--pwfile={folder / 'password'}")
        run("pg_ctl", "-D", data, "-l", f"{folder}/log", "-w", "-o", socket, "start")
        psql(port, "postgres", "create database mlflow")
        yield port
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run("pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
        shutil.rmtree(folder)


def connection(port: int) -> dict[str, str]:
    return {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "mlflow", "PGPASSWORD": PASSWORD}


def psql(port: int, database: str, statement: str) -> str:
    command = [postgres_programs() / "psql", "-tA", "-d", database, "-c", statement]
    environment = os.environ | connection(port)
    return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()


def filled(text: str, variables: dict[str, str]) -> str:
    """Fill in variables as compose does: ${NAME}, ${NAME:-default}."""
    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", lambda found: variables.get(found[1], found[2]), text)


@pytest.fixture(scope="module")
def environment(database: int) -> Iterator[dict[str, str]]:
    """Yield the files' environment of the server and of create_bucket.py, with this machine's addresses."""
    from moto.server import ThreadedMotoServer

    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    port = free_port()
    addresses = {
        "postgres:5432": f"127.0.0.1:{database}",
        "s3:7070": "{}:{}".format(*store.get_host_and_port()),
        "0.0.0.0": "127.0.0.1",
        "localhost:5000,127.0.0.1:5000": f"localhost:{port},127.0.0.1:{port}",
    }
    env_file = {"POSTGRES_PASSWORD": PASSWORD, "S3_ACCESS_KEY": KEYS[0], "S3_SECRET_KEY": KEYS[1]}
    compose = yaml.safe_load((ROOT / "cluster" / "mlflow" / "compose.yaml").read_text())
    found = compose["services"]["mlflow"]["environment"]
    for theirs, ours in addresses.items():
        found = {name: filled(value, env_file).replace(theirs, ours) for name, value in found.items()}
    yield os.environ | found | {"MLFLOW_PORT": str(port)}
    store.stop()


@pytest.fixture(scope="module")
def server(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the server's URL."""
    make = [sys.executable, str(ROOT / "cluster" / "mlflow" / "create_bucket.py")]
    for _ in range(2):  # the second time it exists
        done = subprocess.run(make, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout == "bucket mlflow exists\n", done.stderr
    folder, url = tmp_path_factory.mktemp("server"), f"http://127.0.0.1:{environment['MLFLOW_PORT']}"
    with (folder / "log").open("w") as log:
        streams = {"stdout": log, "stderr": subprocess.STDOUT}
        process = subprocess.Popen([MLFLOW, "server"], env=environment, cwd=folder, start_new_session=True, **streams)
    try:
        deadline = time.monotonic() + 180
        while status(f"{url}/health") != 200:
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()[-3000:]
            time.sleep(0.5)
        yield url
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="module")
def recorded(server: str) -> Any:
    """Return a run recorded as by a training."""
    config = MLflowConfig(uri=server)
    settings = preset(TrainConfig, "tiny", data={"path": "tokens"}, run={"output": "out"})
    with tracking.start(config, stage="train", settings=settings) as run:
        run.metrics({"loss": 2.5}, step=3)
        run.image("samples/step_000003.png", Image.new("RGB", (8, 8), "red"))
    return run


def test_a_run_is_stored_in_the_database_and_its_images_in_the_bucket(
    server, recorded, database, environment, tmp_path
):
    import boto3
    from mlflow import MlflowClient

    client = MlflowClient(server)
    run = client.get_run(recorded.id)
    assert run.info.status == "FINISHED" and run.data.metrics == {"loss": 2.5}
    assert psql(database, "mlflow", "select value from metrics where key = 'loss'") == "2.5"
    file = client.download_artifacts(recorded.id, "samples/step_000003.png", str(tmp_path))
    assert Image.open(file).getpixel((0, 0)) == (255, 0, 0)
    keys = dict(zip(("aws_access_key_id", "aws_secret_access_key"), KEYS, strict=True))
    store = boto3.client("s3", endpoint_url=environment["MLFLOW_S3_ENDPOINT_URL"], region_name="us-east-1", **keys)
    names = [entry["Key"] for entry in store.list_objects_v2(Bucket="mlflow")["Contents"]]
    assert any(name.endswith(f"{recorded.id}/artifacts/samples/step_000003.png") for name in names)


def test_only_allowed_host_names_are_answered(server: str):
    runs = f"{server}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert status(runs) == status(runs, Host=server.replace("http://127.0.0.1", "localhost")) == 200
    assert status(runs, Host="evil.example:5000") == 403
    assert status(f"{server}/health", Host="10.1.2.3:5000") == 200  # probes use the address


def test_runs_are_restored_from_a_backup(recorded, database: int, tmp_path: Path):
    text = (ROOT / "cluster" / "kubernetes" / "mlflow.yaml").read_text()
    (job,) = (resource for resource in yaml.safe_load_all(text) if resource["kind"] == "CronJob")
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    for day in range(10, 30):
        (tmp_path / f"mlflow-2020-01-{day}.dump").write_text("old")
    own = os.environ | connection(database) | {"BACKUP": str(tmp_path), "PGDATABASE": "mlflow"}
    own["PATH"] = f"{postgres_programs()}:{own['PATH']}"
    subprocess.run([*container["command"], *container["args"]], env=own, check=True)
    *old, new = sorted(tmp_path.iterdir())
    assert len(old) == 13 and old[0].name == "mlflow-2020-01-17.dump"
    psql(database, "mlflow", "delete from metrics")
    command = re.search(r"-- (pg_restore [^<]+) < FILE", (ROOT / "docs" / "guides" / "operations.md").read_text())
    assert command
    with new.open("rb") as file:  # while the server runs, which holds no lock between two requests
        subprocess.run(command[1].split(), env=own, stdin=file, check=True)
    assert psql(database, "mlflow", "select value from metrics where key = 'loss'") == "2.5"


def test_create_bucket_waits_for_an_object_store_that_starts_later():
    from moto.server import ThreadedMotoServer

    port = free_port()
    own = os.environ | {"MLFLOW_ARTIFACTS_DESTINATION": "s3://later", "AWS_DEFAULT_REGION": "us-east-1"}
    own |= {
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
    }
    make = [sys.executable, str(ROOT / "cluster" / "mlflow" / "create_bucket.py")]
    waiting = subprocess.Popen(make, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    time.sleep(6)
    assert waiting.poll() is None, waiting.communicate()[0]
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    store.start()
    try:
        assert waiting.communicate(timeout=60)[0] == "bucket later exists\n"
    finally:
        store.stop()


def test_an_invalid_bucket_is_a_one_line_error(environment: dict[str, str]):
    make = [sys.executable, str(ROOT / "cluster" / "mlflow" / "create_bucket.py")]
    away = environment | {"MLFLOW_ARTIFACTS_DESTINATION": "s3://not_a_bucket!"}
    done = subprocess.run(make, env=away, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: http://127.0.0.1") and done.stderr.count("\n") == 1
