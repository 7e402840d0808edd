"""The whole job at a small size: what `make demo` runs, with fewer images and steps."""

import json
from pathlib import Path

import pytest
from PIL import Image

from emage.config import DemoConfig
from emage.data.images import image_files
from emage.on_ray.programs.demo import BROKEN_ROWS, demo

pytestmark = [pytest.mark.chaos, pytest.mark.ray]


@pytest.fixture(scope="module")
def finished(ray_cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.chdir(folder)  # the presets' runs/ lands here
        demo(DemoConfig(output=str(folder / "demo"), pictures=120, held_out=8, steps=10))
    return folder / "demo"


def test_every_row_is_accounted_for(finished: Path):
    report = json.loads((finished / "demo_report.json").read_text())["ingest"]
    assert report["rows_in"] == 120 + 4 * BROKEN_ROWS and report["written"] == 120
    assert sum(report["failed"].values()) == 4 * BROKEN_ROWS and len(report["failed"]) == 4


def test_images_are_written(finished: Path):
    assert Image.open(finished / "http.png").size == (64, 64)
    assert Image.open(finished / "evaluate" / "grid.png").width > 500
    assert Image.open(finished / "strip.png").width > 1000
    (shard,) = (finished / "evaluate" / "pictures").iterdir()
    assert len(image_files.find(str(shard)).files) == 8


def test_the_metrics_are_in_the_report(finished: Path):
    figures = json.loads((finished / "evaluate" / "report.json").read_text())["figures"]
    assert set(figures) == {"objects_right", "relation_right", "all_right"}
    assert "objects_right" in (finished / "evaluate" / "report.md").read_text()
