"""Jobs on a cluster with a token, as users submit them: a table of URLs becomes a served model."""

import base64
import io
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import web
from openai import OpenAI
from PIL import Image
from programs import ROOT, free_port, status, wait_until

from emage.data import shapes

pytestmark = pytest.mark.chaos
RAY = str(Path(sys.executable).with_name("ray"))
IMAGES = 120
Done = subprocess.CompletedProcess[str]


class Head:
    """A head with a token, and the command line of its users."""

    def __init__(self) -> None:
        self.dashboard, self.agent = free_port(), free_port()
        self.token = secrets.token_hex(32)

    def environment(self, token: str | None = None) -> dict[str, str]:
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token or self.token}
        return {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | own

    def job(self, what: str, *arguments: str, token: str | None = None) -> Done:
        line = [RAY, "job", what, f"--address=http://127.0.0.1:{self.dashboard}", *arguments]
        environment = self.environment(token)
        return subprocess.run(line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)

    def submit(self, name: str, *job: str, token: str | None = None, how: tuple[str, ...] = ()) -> Done:
        """As docs/guides/cluster.md has it."""
        how = (f"--submission-id={name}", "--runtime-env=cluster/runtime_env.yaml", *how)
        return self.job("submit", *how, "--", sys.executable, *job, token=token)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    head = Head()
    command = [RAY, "start", "--head", "--block", f"--port={free_port()}", f"--dashboard-port={head.dashboard}"]
    command += ["--num-cpus=4", f"--dashboard-agent-listen-port={head.agent}", "--disable-usage-stats"]
    command += ["--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"]
    log = tmp_path_factory.mktemp("head") / "log"
    with log.open("w") as file:
        streams = {"stdout": file, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, env=head.environment(), cwd=log.parent, start_new_session=True, **streams)
    try:
        deadline = time.monotonic() + 90
        while head.job("list").returncode:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
        yield head
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=60)


@pytest.fixture(scope="module")
def tokens(head: Head, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The token table of an ingest that was a job."""
    folder, scenes = tmp_path_factory.mktemp("ingest"), shapes.sample_train_scenes(IMAGES, seed=7)
    pages: dict[str, web.Page] = {}
    for number, pixels in enumerate(shapes.render_many(scenes, seed=7)):
        pages[f"/{number}.png"] = web.encode(Image.fromarray(pixels))
    with web.serving(pages) as address:
        urls = [f"{address}/{number}.png" for number in range(IMAGES)]
        pq.write_table(pa.table({"url": urls, "caption": [scene.caption for scene in scenes]}), folder / "urls.parquet")
        paths = (f"source.table={folder / 'urls.parquet'}", f"output={folder / 'out'}", "mlflow.enabled=false")
        done = head.submit("ingest-1", "pipelines/ingest.py", "tiny", *paths, "download.shard_rows=40")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "Job 'ingest-1' succeeded" in done.stdout + done.stderr
    yield folder / "out" / "tokens"


@pytest.fixture(scope="module")
def model(head: Head, tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a training that was a job."""
    output = tmp_path_factory.mktemp("train") / "run"
    paths = (f"data.path={tokens}", f"run.output={output}", "mlflow.enabled=false")
    done = head.submit("train-1", "pipelines/train.py", "tiny", *paths, "optim.steps=10")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    return output / "model"


def test_a_job_ingests_and_its_log_is_kept(head: Head, tokens: Path):
    assert pq.read_table(tokens).num_rows == IMAGES
    log = head.job("logs", "ingest-1")
    assert log.returncode == 0 and f"{IMAGES}" in log.stdout and "source:" in log.stdout
    state = head.job("status", "ingest-1")
    assert "SUCCEEDED" in (state.stdout + state.stderr).upper()


def test_a_job_serves_what_another_trained_until_it_is_stopped(head: Head, model: Path):
    port = free_port()
    paths = (f"checkpoint={model}", f"port={port}", "mlflow.enabled=false", "num_frontends=1")
    done = head.submit("serve-1", "pipelines/serve.py", "demo", *paths, how=("--no-wait",))
    assert done.returncode == 0, done.stdout + done.stderr
    url = f"http://127.0.0.1:{port}"
    wait_until(lambda: status(f"{url}/health") == 200, 150, lambda: head.job("logs", "serve-1").stdout[-3000:])
    client = OpenAI(base_url=f"{url}/v1", api_key="none")
    (image,) = client.images.generate(prompt="a small red circle", extra_body={"seed": 7}).data or []
    assert Image.open(io.BytesIO(base64.b64decode(image.b64_json or ""))).size == (64, 64)
    # What KubeRay's probes of a pod ask for, without a token (cluster/kubernetes/serve.yaml).
    assert "success" in httpx.get(f"{url}/-/healthz", timeout=10).text
    for path in ("api/healthz", "api/local_raylet_healthz"):
        assert "success" in httpx.get(f"http://127.0.0.1:{head.agent}/{path}", timeout=10).text
    assert "success" in httpx.get(f"http://127.0.0.1:{head.dashboard}/api/gcs_healthz", timeout=10).text
    assert head.job("stop", "serve-1").returncode == 0
    wait_until(lambda: status(f"{url}/health") != 200, 60)


def test_the_same_name_does_not_start_twice(head: Head, tmp_path: Path):
    mark = tmp_path / "mark"
    job = ("-c", f"open({str(mark)!r}, 'a').write('x')")
    assert head.submit("once", *job).returncode == 0
    again = head.submit("once", *job)
    assert again.returncode != 0 and "already exists" in again.stdout + again.stderr
    assert mark.read_text() == "x"


def test_bad_settings_end_the_job_with_their_line(head: Head, tmp_path: Path):
    done = head.submit("bad", "pipelines/train.py", "tinny", f"run.output={tmp_path}")
    assert done.returncode != 0
    assert "error: " in done.stdout and "tiny" in done.stdout


def test_a_wrong_token_is_rejected(head: Head, tmp_path: Path):
    mark = tmp_path / "mark"
    done = head.submit("thief", "-c", f"open({str(mark)!r}, 'w')", token="0" * 64)
    assert done.returncode != 0 and not mark.exists()
    assert "Unauthorized" in done.stdout + done.stderr or "Authentication" in done.stdout + done.stderr
