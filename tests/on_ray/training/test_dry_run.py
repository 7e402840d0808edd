"""A plan before there is a token table: rows and tokenizer by numbers, checked as the run itself is."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from emage.config import TrainConfig, preset
from emage.on_ray.training.driver import train
from emage.utils.errors import InputError

ROWS = 280_000_000


def planned(name: str, folder: Path, **values) -> TrainConfig:
    """A plan for a table that does not exist."""
    data = {"path": str(folder / "absent"), "rows": ROWS, **values.pop("data", {})}
    run = {"output": str(folder / "run"), **values.pop("run", {})}
    return preset(TrainConfig, name, data=data, run=run, dry_run=True, **values)


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch) -> None:
    """No published weights: a plan must not need them."""
    monkeypatch.setenv("EMAGE_CACHE", str(tmp_path / "cache"))


def test_the_papers_run_is_planned_without_table_weights_and_gpus(tmp_path: Path, capsys):
    plan = train(planned("paper", tmp_path, run={"num_workers": 64}))["plan"]
    lines = {line[:22].strip(): line[22:] for line in plan.splitlines()}
    assert lines["images"] == "32 x 32 tokens of 8,192"
    assert lines["data"] == "512,000,000 training samples from 280,000,000 rows: 1.83 epochs"
    assert lines["parameters"].startswith("277.5M trained of 277.5M") and "64 V100s" in lines["time"]
    assert plan in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []  # nothing is written, and nothing is downloaded


def test_vocabulary_and_grid_are_those_of_the_tokenizer(tmp_path: Path):
    coarse = train(planned("paper", tmp_path, data={"tokenizer": "vqgan-f16-1024"}))["plan"]
    assert "16 x 16 tokens of 1,024" in coarse
    assert "8 x 8 tokens of 512" in train(planned("demo", tmp_path))["plan"]


def test_a_plan_by_numbers_is_that_of_a_table_with_these_rows(token_table: Path, tmp_path: Path):
    by_numbers = planned("tiny", tmp_path, data={"rows": 200})
    by_table = replace(by_numbers, data=replace(by_numbers.data, path=str(token_table), rows=None))
    assert train(by_numbers) == train(by_table)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("tiny", {"data": {"tokenizer": "vqgan-f9"}}, "vqgan-f8"),
        ("tiny", {"data": {"tokenizer_weights": "none.safetensors"}}, r"none\.safetensors does not exist"),
        ("tiny", {"data": {"rows": 0}}, r"data\.rows=0: must be a whole number"),
        ("tiny", {"model": {"width": 30, "num_heads": 4}}, r"model\.width=30: must be a multiple"),
        ("tiny", {"optim": {"lr": math.nan}}, r"optim\.lr=nan"),
        ("tiny", {"sampling": {"steps": 65}}, "steps=65"),  # of 64 tokens
        ("tiny", {"init": "./nowhere/model"}, "nowhere/model"),
        ("tiny", {"init": "demo"}, r"init=demo: model\.width=128 in the checkpoint and 64 here"),
        ("tiny", {"model": {"text": "clip_l14", "text_weights": "none.pt"}}, "no CLIP weights"),
        ("paper", {"sampling": {"steps": 1025}}, "steps=1025"),
    ],
)
def test_a_plan_by_numbers_rejects_what_the_run_rejects(tmp_path: Path, name: str, values: dict, message: str):
    with pytest.raises(InputError, match=message):
        train(planned(name, tmp_path, **values))


def test_rows_by_number_are_no_run(token_table: Path, tmp_path: Path):
    plan = planned("tiny", tmp_path, data={"path": str(token_table), "rows": 200})
    with pytest.raises(InputError, match=r"data\.rows=200 is for a plan \(dry_run=true\)"):
        train(replace(plan, dry_run=False))
    with pytest.raises(InputError, match="no token table"):  # a plan without the number reads the table
        train(replace(plan, data=replace(plan.data, path=str(tmp_path / "absent"), rows=None)))
    assert not (tmp_path / "run").exists()
