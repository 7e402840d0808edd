"""Charts can be opened, have the expected size and contain the expected colours."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emage import tokenizers
from emage.config import ReproduceConfig, parse
from emage.model import checkpoint
from emage.reproduce import studies
from emage.reproduce.latency import summarize
from emage.reproduce.paper_numbers import TABLE3, OtherModel
from emage.reproduce.report import charts, methods
from emage.reproduce.report.results import Results, RowResults
from emage.training.plot_curves import COLOURS


def has_colour(image: Image.Image, colour: str) -> bool:
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((np.abs(np.asarray(image.convert("RGB")).astype(int) - wanted).max(-1) < 3).any())


def rows(scale: str) -> list[RowResults]:
    values = {"small": {"frechet_tokenizer": [2.0, 1.0], "objects_right": [0.2, 0.3]}, "paper": {"fid": [25.0]}}[scale]
    latency = summarize([1.0, 2.0, 3.0])
    return [RowResults(method, method, paper, values, latency) for method, paper in TABLE3.items()]


@pytest.mark.parametrize(("scale", "panels"), [("small", 4), ("paper", 2)])
def test_a_chart_of_rows(scale: str, panels: int, tmp_path: Path):
    results = Results("table3", "Table 3", scale, rows(scale), others=(OtherModel("DALL-E", "12B", 28),))
    charts.rows(results, tmp_path / "table3.png")
    with Image.open(tmp_path / "table3.png") as image:
        # With scale=paper the paper's FID is in the same panel as ours, with scale=small in a panel of its own.
        assert image.width == pytest.approx((3.2 + 3.1 * panels) * 110, abs=2) and 200 < image.height < 1_000
        assert has_colour(image, COLOURS[0]) and has_colour(image, COLOURS[1])


def test_a_chart_without_numbers_of_the_paper(tmp_path: Path):
    found = [RowResults("a", "a", values={"frechet_tokenizer": [1.0]})]
    charts.rows(Results("figure4", "Figure 4", "small", found), tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as image:
        assert image.width == 990 and not has_colour(image, COLOURS[1])


def curve(losses: list[float]) -> dict[str, list[float]]:
    return {"step": [float(step) for step in range(1, len(losses) + 1)], "loss": losses}


def test_a_training_keeps_the_mean_of_its_last_losses_and_a_short_curve(tmp_path: Path):
    log = tmp_path / "steps.jsonl"
    log.write_text("".join(json.dumps({"step": i, "loss": 1000.0 - i}) + "\n" for i in range(1, 1001)))
    found = charts.loss_curve(log)
    assert found["loss"] == pytest.approx(49.5)  # steps 901 to 1,000
    steps, losses = found["curve"]["step"], found["curve"]["loss"]
    assert len(steps) == len(losses) <= 100 and losses == sorted(losses, reverse=True)
    assert all(step + loss == pytest.approx(1000, abs=40) for step, loss in zip(steps, losses, strict=True))


def test_losses_end_with_the_shortest_run():
    runs = [curve([4.0, 3.0, 2.0]), curve([2.0, 1.0, 0.0, 9.0])]
    step, values = charts.losses(runs)
    assert step.tolist() == [1, 2, 3] and values.tolist() == [[4, 3, 2], [2, 1, 0]]


def test_learning_curves(tmp_path: Path):
    slow, fast = ([curve([6 - rate * s + i for s in range(300)]) for i in (0, 1)] for rate in (0.001, 0.01))
    charts.curves({"slow": slow, "fast": fast}, tmp_path / "curves.png", "Figure 3", warm_start=0.6)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 800 and image.height > 400
        assert has_colour(image, COLOURS[0]) and has_colour(image, COLOURS[1])


def test_quality_against_cost_leaves_out_rows_without_results(tmp_path: Path):
    found = [RowResults(f"m/steps={n}", "m", values={"all_right": [0.1 * n, 0.1 * n + 0.05]}) for n in (4, 8)]
    results = Results("methods", "Methods", "small", found)
    lines = {"m": [("m/steps=4", 4.0), ("m/steps=8", 8.0), ("m/steps=16", 16.0)]}
    charts.quality_by_cost(results, lines, "all_right", "decoding steps", tmp_path / "cost.png")
    with Image.open(tmp_path / "cost.png") as image:
        assert image.width > 800 and has_colour(image, COLOURS[0])


def test_costs_of_the_methods_in_flop():
    (study,) = studies.requested(parse(ReproduceConfig, ["methods", "seeds=1", "output=unused"]))
    costs = methods.by_flops(study, checkpoint.describe(tokenizers.load(tokenizers.DEMO)))
    parallel, iterative = (dict(costs[label]) for label in methods.LINES)
    assert len(set(parallel.values())) == 1  # steps do not change its work
    assert iterative["iterative3/halton/steps=32"] > 7 * iterative["iterative3/halton/steps=4"]
    assert parallel["parallel_autoregressive"] < iterative["iterative3/halton"] / 5
    assert {key for points in costs.values() for key, _ in points} <= {row.key for row in study.rows}
