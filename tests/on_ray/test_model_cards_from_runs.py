"""Training and evaluation write the model card. No cluster: the functions that write it are called directly."""

from pathlib import Path

import torch

import emage
from emage import config
from emage.data import schema
from emage.data.token_table import TokenTable
from emage.evaluation.report import Report
from emage.model import checkpoint
from emage.on_ray.evaluation import driver as evaluate
from emage.on_ray.training.recorder import TrainingRecorder
from emage.training import step_log
from emage.training.engine import BareEngine, Objective
from emage.training.loop import fit
from emage.training.step_metrics import LOGGED_METRICS, STEP_METRICS


def test_training_writes_a_card_with_its_settings_and_metrics(token_table: Path, tmp_path: Path):
    (tmp_path / "run").mkdir()
    settings = config.preset(
        config.TrainConfig,
        "tiny",
        data={"path": str(token_table)},
        run={"output": str(tmp_path / "run"), "prompts": ["a large blue square"]},
        optim={"steps": 2},
        mlflow={"enabled": False},
    )
    table = TokenTable(str(token_table), 0)
    parts = settings.checkpoint_config(table.tokenizer.vocab_size, table.tokenizer.grid)
    torch.manual_seed(0)
    network = checkpoint.build(parts)
    engine = BareEngine(Objective(network, settings.method, settings.objective), settings.optim)
    recorder = TrainingRecorder(settings, tmp_path / "run", engine, network, parts, start=0)
    fit(engine, table, settings, recorder)
    recorder.finish(table)
    recorder.close()
    last = list(step_log.read(tmp_path / "run" / "steps.jsonl"))[-1]
    assert last.keys() <= {metric.name for metric in STEP_METRICS + LOGGED_METRICS}
    pipe = emage.Emage.from_pretrained(tmp_path / "run" / "model", device="cpu")
    assert {"loss", "accuracy_masked", "context_gain"} <= pipe.metadata["metrics"].keys()
    assert pipe.metadata["settings"]["optim"]["lr"] == settings.optim.lr and pipe.metadata["seconds"] >= 0
    assert pipe.metadata["data"] == {"path": token_table.name, "rows": 200} | {
        "fingerprint": schema.fingerprint(str(token_table))
    }
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "| steps | 2 |" in card and f"| loss at the end | {pipe.metadata['metrics']['loss']:.4g} |" in card
    assert 'pipe.generate(["a large blue square"], seed=7)' in card
    assert (tmp_path / "run" / "model" / "samples.png").exists()


def test_evaluation_adds_its_metrics_to_the_checkpoint(tiny_model: Path, tmp_path: Path, capsys):
    pipe = emage.Emage.from_pretrained(tiny_model, device="cpu")
    pipe.save_pretrained(tmp_path / "model")
    settings = config.preset(
        config.EvaluateConfig, "tiny", checkpoint=str(tmp_path / "model"), captions="/data/c.txt", output="out"
    )
    made_by = {
        "checkpoint": pipe.metadata["files"],
        "captions": "c0ffee",
        "drawing": {"seed": 1},
        "judges": {},
        "commit": "x",
    }
    made = Report({"objects_right": 0.5}, 8, 0, made_by)
    evaluate.add_to_checkpoint(pipe, settings, made)
    _, facts = checkpoint.check(tmp_path / "model")
    (record,) = facts["scores"].values()
    expected = {"captions": "c0ffee", "drawing": {"seed": 1}, "judges": {}}  # no other record after another commit
    assert record == {"file": "c.txt", "captions": 8, "figures": {"objects_right": 0.5}, "settings": expected}
    (tmp_path / "model" / "README.md").unlink()
    (tmp_path / "model" / "README.md").mkdir()  # stands for a folder that may not be written to: root may write to any
    evaluate.add_to_checkpoint(pipe, settings, made)
    assert "the scores could not be added to the model card" in capsys.readouterr().out
