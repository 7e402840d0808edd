"""A figure of the paper at a small size, through the program: rendered, trained, reported, and not run twice."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from emage.config import ReproduceConfig, parse
from emage.on_ray.programs.reproduce import reproduce
from emage.reproduce import studies
from emage.utils.errors import InputError

pytestmark = pytest.mark.ray

SMALL = ("small.pictures=16", "small.captions=4", "small.references=8", "small.batch_size=4", "small.cpus=1")


def config(output: Path, *arguments: str) -> ReproduceConfig:
    return parse(ReproduceConfig, [*arguments, "seeds=1", *SMALL, f"output={output}", "mlflow.enabled=false"])


@pytest.mark.chaos
def test_figure_5_and_then_an_iteration_count(ray_cluster, tmp_path: Path, capsys, monkeypatch):
    """One training, its strips; then rows of Table 6 that need no other training."""
    settings = config(tmp_path, "figure5", "steps=2")
    reproduce(settings)
    assert "1 x 2 steps of 4 images" in capsys.readouterr().out
    with Image.open(tmp_path / "figure5.png") as image:
        assert image.width == 8 * (128 + 16)
    assert "Figure 5" in (tmp_path / "figure5.md").read_text()
    monkeypatch.setattr(studies.paper_numbers, "TABLE6", {4: studies.paper_numbers.TABLE6[4]})
    table = replace(settings, what="table6")
    reproduce(table)
    assert "trainings   none" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "table6.json").read_text())["rows"]
    assert row["label"] == "4 decoding steps" and row["latency"]["median"] > 0
    assert set(row["figures"]) >= {"frechet_tokenizer", "objects_right"}
    assert "| 4 decoding steps | 71.13 | " in (tmp_path / "table6.md").read_text()
    reproduce(table)
    assert "0 to run" in capsys.readouterr().out


def test_bad_settings_are_rejected_before_any_work(tmp_path: Path):
    for argument in ("seeds=0", "small.captions=0", "steps=0"):
        with pytest.raises(InputError, match=f"{argument}: must be a whole number of at least 1"):
            reproduce(parse(ReproduceConfig, ["table3", argument, f"output={tmp_path / 'out'}"]))
    with pytest.raises(InputError, match=r"scale=paper needs paper\.data=.*paper\.captions="):
        reproduce(parse(ReproduceConfig, ["table3", "scale=paper", f"output={tmp_path / 'out'}"]))
    assert not (tmp_path / "out").exists()


def test_a_dry_run_starts_nothing(tmp_path: Path, capsys):
    reproduce(parse(ReproduceConfig, ["all", "scale=paper", "dry_run=true", f"output={tmp_path / 'out'}"]))
    printed = capsys.readouterr().out
    assert "missing     paper.data=" in printed and "days for one process" in printed
    assert not (tmp_path / "out").exists()
