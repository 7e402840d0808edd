"""Charts can be opened, have the expected size and contain the expected colours."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from emage.reproduce.latency import summarize
from emage.reproduce.paper_numbers import TABLE3, OtherModel
from emage.reproduce.report import charts
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


def record(path: Path, losses: list[float]) -> Path:
    path.write_text("".join(json.dumps({"step": i, "loss": loss}) + "\n" for i, loss in enumerate(losses, 1)))
    return path


def test_losses_end_with_the_shortest_run(tmp_path: Path):
    runs = [record(tmp_path / "a", [4.0, 3.0, 2.0]), record(tmp_path / "b", [2.0, 1.0, 0.0, 9.0])]
    step, values = charts.losses(runs)
    assert step.tolist() == [1, 2, 3] and values.tolist() == [[4, 3, 2], [2, 1, 0]]


def test_learning_curves(tmp_path: Path):
    slow, fast = (
        [record(tmp_path / f"{name}{i}", [6 - rate * s + i for s in range(300)]) for i in (0, 1)]
        for name, rate in (("slow", 0.001), ("fast", 0.01))
    )
    charts.curves({"slow": slow, "fast": fast}, tmp_path / "curves.png", "Figure 3", warm_start=0.6)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.width > 800 and image.height > 400
        assert has_colour(image, COLOURS[0]) and has_colour(image, COLOURS[1])
