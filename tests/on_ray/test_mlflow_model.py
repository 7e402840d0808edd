"""A trained model in MLflow: what is logged and registered, and what loads it."""

import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from mlflow_runs import in_folder, ingest_config, rows
from PIL import Image
from programs import free_port, status, wait_until
from same_images import same

import emage
from emage.config import TrainConfig, parse
from emage.inference.mlflow_pyfunc import COLUMNS, PyfuncModel
from emage.model.hub import SHIPPED
from emage.on_ray import mlflow_model, tracking
from emage.utils.errors import InputError

DEMO = SHIPPED / "demo"
PROMPT = "a small red circle above a large blue square"


@pytest.fixture(scope="module")
def pipe() -> emage.Emage:
    return emage.Emage.from_pretrained(DEMO, device="cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    mlflow_model.save(DEMO, folder)
    return folder


def decode(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_each_row_has_its_own_seed_and_settings(pipe: emage.Emage):
    table = pd.DataFrame(
        {
            "prompt": [PROMPT, "a large green cross", PROMPT],
            "seed": [7, 8, None],
            "steps": [4, None, 4],
            "top_k": [1, 0, 1],
        }
    )
    images = PyfuncModel(pipe).predict(table)
    assert list(images.columns) == ["png_base64", "seed"] and images["seed"].tolist() == [7, 8, 0]
    expected = [
        *pipe.generate(PROMPT, seed=7, steps=4, top_k=1),
        *pipe.generate("a large green cross", seed=8, top_k=0),
        *pipe.generate(PROMPT, seed=0, steps=4, top_k=1),
    ]
    assert all(same(decode(text), image) for text, image in zip(images["png_base64"], expected, strict=True))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"steps": [0]}, "steps=0: must be"), ({"seed": [-1]}, "seed"), ({"schedule": ["cosin"]}, "did you mean cosine")],
)
def test_bad_values_are_one_line(pipe: emage.Emage, values: dict, message: str):
    with pytest.raises(InputError, match=message):
        PyfuncModel(pipe).predict(pd.DataFrame({"prompt": [PROMPT], **values}))


def test_the_files_are_safetensors_and_have_no_folder_of_this_machine(saved: Path):
    files = {str(file.relative_to(saved)) for file in saved.rglob("*") if file.is_file()}
    assert "data/demo/model.safetensors" in files
    assert {Path(name).suffix for name in files} <= {".safetensors", ".json", ".yaml", ".txt", ".md", ".png", ""}
    described = yaml.safe_load((saved / "MLmodel").read_text())
    assert described["flavors"]["python_function"]["loader_module"] == "emage.inference.mlflow_pyfunc"
    inputs = {item["name"]: item for item in json.loads(described["signature"]["inputs"])}
    assert set(inputs) == set(COLUMNS) and [name for name, item in inputs.items() if item["required"]] == ["prompt"]
    assert (inputs["seed"]["type"], inputs["guidance"]["type"], inputs["order"]["type"]) == ("long", "double", "string")
    assert [item["name"] for item in json.loads(described["signature"]["outputs"])] == ["png_base64", "seed"]
    texts = [saved / name for name in files if not name.endswith((".safetensors", ".png"))]
    assert not any(str(Path.home()) in text.read_text() or str(DEMO) in text.read_text() for text in texts)


CORE_ALONE = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("ray", "deepspeed", "img2dataset"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
import mlflow, pandas as pd
model = mlflow.pyfunc.load_model(sys.argv[1])
image = model.predict(pd.DataFrame({"prompt": ["a small red circle"], "seed": [7], "steps": [2], "guidance": [0.0]}))
assert model.input_example["seed"].tolist() == [7], model.input_example
print(image["png_base64"][0])
"""


def test_mlflow_loads_it_without_ray(saved: Path, pipe: emage.Emage, tmp_path: Path):
    command = [sys.executable, "-c", CORE_ALONE, str(saved)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert same(decode(done.stdout), pipe.generate("a small red circle", seed=7, steps=2)[0])


def test_a_run_has_the_model_once_and_the_registry_its_versions(
    pipe: emage.Emage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    config = ingest_config(in_folder(tmp_path))
    for number in (1, 2):
        with tracking.start(config.mlflow, stage="train", settings=config, run_file=tmp_path / f"{number}.json") as run:
            run.model(DEMO, "red-circles")
            assert rows(tmp_path, "select status from logged_models where source_run_id = ?", run.id) == [(2,)]  # READY
            run.model(DEMO, "red-circles")
    versions = rows(tmp_path, "select name, version, storage_location, run_id from model_versions order by version")
    assert [(name, version) for name, version, *_ in versions] == [("red-circles", 1), ("red-circles", 2)]
    assert rows(tmp_path, "select count(*) from logged_models") == [(2,)]
    files = {file.name for file in Path(versions[1][2].removeprefix("file://")).rglob("*")}
    assert {"MLmodel", "model.safetensors", "input_example.json"} <= files
    from mlflow import MlflowClient

    client = MlflowClient(config.mlflow.uri)
    assert [item.step for item in client.get_run(run.id).outputs.model_outputs] == [pipe.metadata["step"]]


def test_a_model_whose_registration_failed_is_registered_by_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from mlflow import MlflowClient

    config = ingest_config(in_folder(tmp_path))
    with tracking.start(config.mlflow, stage="train", settings=config) as run:
        run.wait()
    client = MlflowClient(config.mlflow.uri)

    def fail(*args, **options):
        raise ConnectionError

    with monkeypatch.context() as patch, pytest.raises(ConnectionError):
        patch.setattr(client, "create_model_version", fail)
        mlflow_model.log(client, run.id, DEMO, "red-circles")
    for _ in range(2):
        mlflow_model.log(client, run.id, DEMO, "red-circles")
    assert rows(tmp_path, "select version, run_id from model_versions") == [(1, run.id)]
    assert rows(tmp_path, "select count(*) from logged_models") == [(1,)]


def test_the_secret_of_the_artifacts_address_is_not_in_the_models_files(tmp_path: Path):
    config = ingest_config(in_folder(tmp_path))
    address = f"file://{tmp_path}/artifacts?token=planted-secret"
    with tracking.start(replace(config.mlflow, artifacts=address), stage="train", settings=config) as run:
        run.model(DEMO)
    (description,) = tmp_path.rglob("MLmodel")
    assert "?token=***" in description.read_text() and "planted-secret" not in description.read_text()


def test_a_damaged_checkpoint_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    config = ingest_config(in_folder(tmp_path))
    with tracking.start(config.mlflow, stage="train", settings=config) as run:
        run.model(tmp_path / "nothing")
    assert len(caplog.messages) == 1 and "the stage continues without it" in caplog.messages[0]
    assert rows(tmp_path, "select status from logged_models") == [(3,)]  # FAILED


def test_without_a_server_it_is_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    config = ingest_config(in_folder(tmp_path))
    nowhere = type(config.mlflow)(uri="http://127.0.0.1:9")
    started = time.monotonic()
    with tracking.start(nowhere, stage="train", settings=config) as run:
        run.model(DEMO)
    assert time.monotonic() - started < 30 and len(caplog.messages) == 1 and "unreachable" in caplog.messages[0]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["register_as=a/b"], "mlflow.register_as=a/b: must have neither / nor : in it"),
        (["register_as=a", "log_model=false"], "mlflow.register_as needs mlflow.log_model=true"),
    ],
)
def test_settings(values: list[str], message: str):
    with pytest.raises(InputError, match=message):
        parse(TrainConfig, ["tiny", "data.path=t", "run.output=o", *(f"mlflow.{value}" for value in values)])


@contextlib.contextmanager
def served(model: Path, folder: Path) -> Iterator[str]:
    """Run `mlflow models serve` on a free port of 127.0.0.1; yield its address."""
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", str(model), "--host", "127.0.0.1", "--port", str(port)]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True)
        try:
            ping = f"http://127.0.0.1:{port}/ping"
            wait_until(lambda: server.poll() is not None or status(ping) == 200, 120, (folder / "log").read_text)
            assert server.poll() is None, (folder / "log").read_text()
            yield f"http://127.0.0.1:{port}/invocations"
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def post(address: str, body: object) -> tuple[int, dict]:
    answer = httpx.post(address, json=body, timeout=120)
    return answer.status_code, answer.json()


@pytest.mark.faults
def test_mlflow_serves_it(saved: Path, pipe: emage.Emage, tmp_path: Path):
    with served(saved, tmp_path) as address:
        records = [{"prompt": PROMPT, "seed": 7, "steps": 4}, {"prompt": PROMPT, "seed": 8, "steps": 4}]
        code, answer = post(address, {"dataframe_records": records})
        assert code == 200, answer
        images = [decode(row["png_base64"]) for row in answer["predictions"]]
        expected = pipe.generate([PROMPT] * 2, seed=[7, 8], steps=4)
        for image, other in zip(images, expected, strict=True):  # another number of threads rounds otherwise
            assert np.abs(np.asarray(image, float) - np.asarray(other, float)).max() <= 1
        code, answer = post(address, {"dataframe_records": [{"prompt": PROMPT, "steps": 0}]})
        assert code == 400 and "steps=0: must be" in json.dumps(answer)
        assert post(address, {"dataframe_records": [{"seed": 7}]})[0] == 400
