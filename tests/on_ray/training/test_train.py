"""Training through Ray Train and DeepSpeed; the steps themselves are tested in tests/training/test_loop.py."""

import json
import math
import os
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pairs import Ingested
from PIL import Image
from safetensors.torch import load_file

import emage
from emage.config import CheckpointConfig, TrainConfig, cli, preset
from emage.data import table_check
from emage.data.token_table import TokenTable
from emage.model.hub import SHIPPED
from emage.on_ray.training import driver
from emage.on_ray.training.driver import train
from emage.training import resume_state, step_log
from emage.training.step_metrics import batch_checksum
from emage.utils import manifest
from emage.utils.errors import InputError

pytestmark = pytest.mark.ray


def config(table: Path, output: Path, **values) -> TrainConfig:
    run = {"output": str(output), "num_workers": 2, "zero_stage": 1, "cpus_per_worker": 1, **values.pop("run", {})}
    store = {"uri": f"sqlite:///{output.parent / 'mlflow.db'}", "artifacts": str(output.parent / "artifacts")}
    return preset(TrainConfig, "tiny", data={"path": str(table)}, run=run, mlflow=store, **values)


@pytest.fixture(scope="module")
def trained(ingested: Ingested, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Train on the ingested table, named by a relative path: iterative3, 20 steps, two workers, ZeRO 1, EMA.

    Each worker has two micro-batches per step.
    """
    folder = tmp_path_factory.mktemp("train")
    table = Path(os.path.relpath(ingested.output / "tokens"))
    settings = config(table, folder / "run", optim={"micro_batch_size": 2, "ema": 0.9})
    train(settings)
    return settings


def test_from_a_table_of_urls_to_an_image(trained: TrainConfig):
    """The main job: the one test of `make test` that takes longer than ten seconds, most of it in its fixtures."""
    output = Path(trained.run.output)
    pipe = emage.Emage.from_pretrained(str(output / "model"), device="cpu")
    assert pipe.metadata["step"] == 20 and pipe.config.method == "iterative3"
    assert pipe.generate("a small red circle above a large blue square")[0].size == (64, 64)
    for folder in ("samples", "strips"):
        assert sorted(file.name for file in (output / folder).iterdir()) == ["step_000010.png", "step_000020.png"]
    names = [path.name for path in sorted((output / "checkpoints").iterdir())]
    assert names == ["step_00000010", "step_00000020"]
    assert Image.open(output / "curves.png").width > 500


def test_every_step_is_in_the_log(trained: TrainConfig):
    found = list(step_log.read(Path(trained.run.output) / "steps.jsonl"))
    assert [values["step"] for values in found] == list(range(1, 21))
    for name in ("loss", "below_chance", "accuracy_masked", "grad_norm", "lr", "samples", "data_wait_s"):
        assert all(name in values for values in found), name
    assert any("loss_masked_50" in values for values in found) and "accuracy_visible" in found[0]
    speed = [values for values in found if "mfu" in values]
    assert [values["step"] for values in speed] == [5, 10, 15, 20]
    for values in speed:
        assert 0 < values["mfu"] < 1 and 0 <= values["data_wait"] < 1
        assert values["tokens_per_s"] == pytest.approx(64 * values["samples_per_s"])
    rows = TokenTable(trained.data.path, trained.run.seed)
    batches = [rows.batch(values["step"] - 1, 8) for values in found]
    assert [values["samples"] for values in found] == [batch_checksum(batch.uid, batch.seeds) for batch in batches]


def test_the_model_has_the_ema_weights(trained: TrainConfig):
    output = Path(trained.run.output)
    kept = load_file(output / "model" / "model.safetensors")
    last = resume_state.load(output / "checkpoints" / "step_00000020")
    key = "decoder.head.weight"
    assert last.ema and int(last.ema["n_averaged"]) == 20
    assert torch.equal(kept[key], last.ema[f"module.{key}"]) and not torch.equal(kept[key], last.weights[key])


def model_file(settings: TrainConfig) -> Path:
    return Path(settings.run.output, "model/model.safetensors")


def test_the_run_is_in_mlflow(trained: TrainConfig):
    from mlflow import MlflowClient

    client = MlflowClient(trained.mlflow.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("emage").experiment_id])
    assert run.info.status == "FINISHED" and run.data.params["optim.lr"] == "0.001"
    curve = client.get_metric_history(run.info.run_id, "loss")
    assert [point.step for point in curve] == [5, 10, 15, 20] and curve[-1].value < curve[0].value
    assert {"context_gain", "below_chance", "mfu", "samples_per_s", "data_wait"} <= run.data.metrics.keys()
    for folder in ("samples", "strips"):
        names = {item.path for item in client.list_artifacts(run.info.run_id, folder)}
        assert f"{folder}/step_000020.png" in names
    assert "curves.png" in {item.path for item in client.list_artifacts(run.info.run_id)}
    (model,) = client.search_logged_models([run.info.experiment_id])
    assert (model.source_run_id, model.status) == (run.info.run_id, "READY")
    folder = Path(model.artifact_location.removeprefix("file://"), "data/model")
    assert (folder / "model.safetensors").read_bytes() == model_file(trained).read_bytes()


def test_a_finished_run_is_not_repeated_and_another_is_rejected(trained: TrainConfig):
    started = time.monotonic()
    train(trained)
    assert time.monotonic() - started < 5
    changed = replace(trained, optim=replace(trained.optim, lr=3e-4))
    with pytest.raises(InputError, match=r"already holds a run with optim\.lr=0\.001 \(now 0\.0003\)"):
        train(changed)


def test_a_table_of_another_tokenizer_is_rejected_before_anything_is_written(token_table: Path, tmp_path: Path):
    other = shutil.copytree(token_table, tmp_path / "tokens")
    for file in other.iterdir():
        table = pq.read_table(file)
        info = json.loads(table.schema.metadata[b"emage.tokenizer"]) | {"sha256": "0" * 64, "name": "vqgan-f8-256"}
        metadata = {**table.schema.metadata, b"emage.tokenizer": json.dumps(info).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(InputError, match="was made with tokenizer vqgan-f8-256"):
        train(config(other, tmp_path / "run", run={"num_workers": 1}))
    assert not (tmp_path / "run").exists()


def test_a_table_that_cannot_be_trained_on_is_rejected_before_ray_starts(token_table: Path, tmp_path: Path):
    other = shutil.copytree(token_table, tmp_path / "tokens")
    file = other / "00001.parquet"
    table = pq.read_table(file)
    tokens = np.stack(table["tokens"].to_numpy())
    tokens[7, 7] = 512  # of a vocabulary of 512
    column = pa.FixedSizeListArray.from_arrays(pa.array(tokens.ravel()), tokens.shape[1])
    pq.write_table(table.set_column(table.schema.get_field_index("tokens"), table.schema.field("tokens"), column), file)
    settings = config(other, tmp_path / "run", run={"num_workers": 1})
    for either in (settings, replace(settings, dry_run=True)):
        with pytest.raises(InputError, match=r"00001\.parquet has token 512, but the vocabulary of vqgan-demo-f8-512"):
            train(either)
    pq.write_table(table, file)
    listed = [{"name": path.name, "sha256": manifest.sha256(path)} for path in sorted(other.glob("*.parquet"))]
    manifest.write_json(other / table_check.MANIFEST, {"files": listed})
    content = bytearray(file.read_bytes())
    content[200] ^= 4
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"00001\.parquet is damaged: it is not the file that _manifest\.json"):
        train(settings)
    assert not (tmp_path / "run").exists()


def test_more_workers_than_rows_are_rejected(token_table: Path, tmp_path: Path):
    with pytest.raises(InputError, match=r"optim\.batch_size=8 leaves some micro-batches of run\.num_workers=9"):
        train(config(token_table, tmp_path / "run", run={"num_workers": 9}))
    assert not (tmp_path / "run").exists()


def test_sample_images_are_of_the_tables_captions_unless_prompts_are_set(token_table: Path, tmp_path: Path):
    captions = set(TokenTable(str(token_table), 0).batch(0, 200).captions)
    settings = config(token_table, tmp_path / "run")
    prompts = driver.resolve(settings).config.run.prompts
    assert len(set(prompts)) == len(prompts) == 8 and set(prompts) <= captions
    assert driver.resolve(settings).config.run.prompts == prompts  # in a run that resumes, too
    own = replace(settings, run=replace(settings.run, prompts=("a cat",)))
    assert driver.resolve(own).config.run.prompts == ("a cat",)


def test_a_training_that_is_interrupted_ends_as_every_interrupted_command_does():
    """Ray's handler of Ctrl-C ends the program in a SystemExit, whose exit code was then 1."""

    class InterruptedTrainer:
        def fit(self):
            raise SystemExit(0)

    with pytest.raises(KeyboardInterrupt):
        driver._fit(InterruptedTrainer())  # type: ignore[arg-type]


def test_a_dry_run_prints_the_plan_and_starts_nothing(token_table: Path, tmp_path: Path, capsys):
    train(replace(config(token_table, tmp_path / "run", run={"num_workers": 3}), dry_run=True))
    printed = capsys.readouterr().out
    for word in ("iterative3", "micro-batch", "FLOP", "memory", "200 rows"):
        assert word in printed, printed
    assert not (tmp_path / "run").exists()
    data = {"path": str(token_table), "tokenizer": "vqgan-demo-f8-512"}
    paper = preset(TrainConfig, "paper", data=data, run={"output": "unused", "num_workers": 64})
    train(replace(paper, dry_run=True))  # on a machine without a GPU, and without the paper's weights
    assert "64 GPUs" in capsys.readouterr().out


def test_an_output_must_be_a_folder(token_table: Path, tmp_path: Path):
    settings = config(token_table, tmp_path / "run")
    with pytest.raises(InputError, match="not a URL"):
        train(replace(settings, run=replace(settings.run, output="s3://bucket/run")))


@pytest.mark.faults
def test_fine_tuning_starts_from_a_checkpoints_weights(ray_cluster, token_table: Path, tmp_path: Path):
    """With a rate of nearly nothing, the weights stay those of the checkpoint: the shipped model."""
    values = {"optim": {"steps": 1, "lr": 1e-12}, "run": {"num_workers": 1}, "method": "iterative2"}
    model = cli.from_yaml(CheckpointConfig, (SHIPPED / "demo" / "config.yaml").read_text()).model
    settings = config(token_table, tmp_path / "run", model=asdict(model), **values)
    train(replace(settings, init="demo"))
    before, after = (
        load_file(folder / "model.safetensors") for folder in (SHIPPED / "demo", tmp_path / "run" / "model")
    )
    assert all(torch.allclose(before[key].float(), after[key], atol=1e-6) for key in before)
    (step,) = step_log.read(tmp_path / "run" / "steps.jsonl")
    assert step["loss"] < 3.5  # untrained: ln 512 = 6.2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": {"tokenizer": "vqgan-f9"}}, "vqgan-f8"),
        (
            {"model": {"width": 30, "num_heads": 4}},
            r"model\.width=30: must be a multiple of model\.num_heads=4, such as 32",
        ),
        ({"model": {"mlp_ratio": 0.01}}, r"model\.mlp_ratio=0\.01: the feed-forward layers would have no channels"),
        ({"model": {"text": "clip_l14", "text_length": 78}}, r"model\.text_length=78: model\.text=clip_l14 has 77"),
        ({"data": {"tokenizer": "vqgan-gumbel-f8-8192"}}, "was made with tokenizer vqgan-demo-f8-512"),
        ({"run": {"sample_every": 0}}, r"run\.sample_every=0"),
        ({"run": {"keep_every": -1}}, r"run\.keep_every=-1"),
        ({"run": {"precision": "tf32"}}, r"run\.precision=tf32"),
        ({"optim": {"max_spike": 0.0}}, r"optim\.max_spike=0\.0"),
        ({"optim": {"lr": math.nan}}, r"optim\.lr=nan"),
        ({"optim": {"beta2": 1.5}}, r"optim\.beta2=1\.5"),
        ({"objective": {"warm_start": 5.0}}, r"objective\.warm_start=5\.0"),
        ({"run": {"seed": -1}}, r"run\.seed=-1"),
        ({"init": "./nowhere/model"}, "nowhere/model"),
        ({"optim": {"micro_batch_size": 0}}, r"optim\.micro_batch_size=0"),
        ({"sampling": {"steps": 0}}, "steps=0: must be a whole number"),
        ({"run": {"use_gpu": True}}, r"run\.use_gpu asks for 1 GPUs"),
        ({"model": {"text": "clip_l14", "text_weights": "none.pt"}}, "no CLIP weights"),
        ({"model": {"text": "bert_base", "text_weights": "none"}}, "no BERT weights"),
        ({"model": {"text": "bert_tiny", "text_length": 513}}, r"model\.text_length=513"),
    ],
)
def test_bad_settings_are_rejected_before_the_start(token_table: Path, tmp_path: Path, values: dict, message: str):
    if "use_gpu" in str(values) and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    is_of_this_machine = any(name in str(values) for name in ("use_gpu", "precision"))
    run = {"output": str(tmp_path / "run"), **values.pop("run", {})}
    data = {"path": str(token_table), **values.pop("data", {})}
    settings = preset(TrainConfig, "tiny", data=data, run=run, **values)
    for dry_run in (False,) if is_of_this_machine else (True, False):  # a dry run may be made anywhere
        with pytest.raises(InputError, match=message):
            train(replace(settings, dry_run=dry_run))
        assert not (tmp_path / "run").exists()
