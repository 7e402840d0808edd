"""Training through Ray Train and DeepSpeed; the steps themselves are tested in tests/test_training.py."""

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import emage
from emage.config import TrainConfig, preset
from emage.errors import InputError
from emage.on_ray.train import AVERAGE, TAG, train

pytestmark = pytest.mark.ray


def config(table: Path, output: Path, **values) -> TrainConfig:
    run = {"output": str(output), "num_workers": 2, "zero_stage": 1, "cpus_per_worker": 1, **values.pop("run", {})}
    store = {"uri": f"sqlite:///{output.parent / 'mlflow.db'}", "artifacts": str(output.parent / "artifacts")}
    return preset(TrainConfig, "tiny", data={"path": str(table)}, run=run, mlflow=store, **values)


@pytest.fixture(scope="module")
def trained(ray_cluster, token_table: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Two workers, ZeRO 1, two micro-batches a step each, 20 steps of #3, averaged; a relative path to the table."""
    folder = tmp_path_factory.mktemp("train")
    settings = config(Path(os.path.relpath(token_table)), folder / "run", optim={"micro_batch_size": 2, "ema": 0.9})
    train(settings)
    return settings


def test_the_checkpoint_draws(trained: TrainConfig):
    output = Path(trained.run.output)
    pipe = emage.Emage.from_pretrained(str(output / "model"), device="cpu")
    assert pipe.facts["step"] == 20 and pipe.config.method == "iterative3"
    assert pipe.generate("a small red circle above a large blue square")[0].size == (64, 64)
    assert sorted(file.name for file in (output / "samples").iterdir()) == ["step_000010.png", "step_000020.png"]
    assert list((output / "ray").glob("checkpoint_*"))


def test_the_model_is_the_average_of_the_weights(trained: TrainConfig):
    output = Path(trained.run.output)
    last = max((output / "ray").glob("checkpoint_2*")) / TAG  # named by date
    kept, average = load_file(output / "model" / "model.safetensors"), load_file(last / AVERAGE)
    raw = torch.load(last / "mp_rank_00_model_states.pt", weights_only=False)["module"]  # our own file
    key = "decoder.head.weight"
    assert int(average["n_averaged"]) == 20
    assert torch.equal(kept[key], average[f"module.{key}"]) and not torch.equal(kept[key], raw[f"network.{key}"])


def test_the_run_is_in_mlflow(trained: TrainConfig):
    from mlflow import MlflowClient

    client = MlflowClient(trained.mlflow.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("emage").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["optim.lr"] == "0.001"
    curve = client.get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in curve] == [5, 10, 15, 20] and curve[-1].value < curve[0].value
    assert "context_gain" in run.data.metrics
    names = {item.path for item in client.list_artifacts(run.info.run_id, "samples")}
    assert "samples/step_000020.png" in names


def test_a_finished_run_is_left_alone_and_another_refused(trained: TrainConfig):
    started = time.monotonic()
    train(trained)
    assert time.monotonic() - started < 5
    changed = replace(trained, optim=replace(trained.optim, lr=3e-4))
    with pytest.raises(InputError, match=r"already holds a run with optim\.lr=0\.001 \(now 0\.0003\)"):
        train(changed)


def test_a_table_of_another_tokenizer_is_refused_before_anything_is_written(token_table: Path, tmp_path: Path):
    other = shutil.copytree(token_table, tmp_path / "tokens")
    for file in other.iterdir():
        table = pq.read_table(file)
        info = json.loads(table.schema.metadata[b"emage.tokenizer"]) | {"sha256": "0" * 64, "name": "vqgan-f8-256"}
        metadata = {**table.schema.metadata, b"emage.tokenizer": json.dumps(info).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(InputError, match="was made with tokenizer vqgan-f8-256"):
        train(config(other, tmp_path / "run", run={"num_workers": 1}))
    assert not (tmp_path / "run").exists()


def test_a_batch_that_cannot_be_shared_out_is_refused(token_table: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"optim\.batch_size=8 is not run\.num_workers=3"):
        train(config(token_table, tmp_path / "run", run={"num_workers": 3}))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"tokenizer": "vqgan-f9"}}, "vqgan-f8"),
        ({"model": {"width": 30, "num_heads": 4}}, r"model\.width 30"),
        ({"run": {"sample_every": 0}}, r"run\.sample_every=0"),
        ({"run": {"prompts": []}}, r"run\.prompts="),
        ({"optim": {"micro_batch_size": 0}}, r"optim\.micro_batch_size=0"),
        ({"sampling": {"steps": 0}}, "steps must be a whole number"),
        ({"run": {"use_gpu": True}}, r"run\.use_gpu asks for 1 GPUs"),
        ({"model": {"text": "clip_l14", "text_weights": "none.pt"}}, "no CLIP weights"),
        ({"model": {"text": "bert_base", "text_weights": "none"}}, "no BERT weights"),
        ({"model": {"text": "bert_tiny", "text_length": 513}}, r"model\.text_length=513"),
    ],
)
def test_bad_settings_are_refused_before_anything_starts(token_table: Path, tmp_path: Path, values: dict, message: str):
    if "use_gpu" in str(values) and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    run = {"output": str(tmp_path / "run"), **values.pop("run", {})}
    data = {"path": str(token_table), **values.pop("data", {})}
    with pytest.raises(InputError, match=message):
        train(preset(TrainConfig, "tiny", data=data, run=run, **values))
    assert not (tmp_path / "run").exists()
