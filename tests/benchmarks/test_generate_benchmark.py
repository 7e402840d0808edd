"""The generation benchmark: its comparisons, its warnings of decreases, and one small run."""

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = "generate.py"


def measurements(benchmark: ModuleType, *values: tuple) -> list:
    return [
        benchmark.Measurement(what, "float32", 1, steps, scope, flops, ms) for what, steps, scope, flops, ms in values
    ]


def test_images_are_compared_with_images_and_forward_passes_with_forward_passes(benchmark: ModuleType):
    found = measurements(
        benchmark,
        ("iterative3", 16, "text to pixels", 1, 20.0),
        ("autoregressive", 1024, "text to pixels", 0, 500.0),
        ("decoder, as written", 1, benchmark.PASS, 1, 2.0),
        ("decoder, as written", 1, benchmark.STEP, 0, 4.0),
        ("rival", 1, benchmark.PASS, 0, 3.0),
        ("rival", 1, benchmark.STEP, 0, 5.0),
    )
    found[0].share_of_matmul = 0.5
    benchmark.compare(found)
    assert [figure.ratio for figure in found] == [1.0, 25.0, 1.0, 1.0, 1.5, 1.25]
    ratios = benchmark.ratios(found)
    assert ratios["float32, batch 1: autoregressive, 1024 steps, text to pixels: times ours"] == 25.0
    assert ratios["float32, batch 1: iterative3, 16 steps, text to pixels: share of the matmul rate"] == 0.5


def test_a_decreased_ratio_is_reported_on_the_same_device(benchmark: ModuleType):
    before = {"device": "a GPU", "ratios": {"rival": 2.0, "share": 0.6, "gone": 1.0}}
    now = {"device": "a GPU", "ratios": {"rival": 1.6, "share": 0.55, "new": 1.0}}
    assert benchmark.decreases(before, now) == ["warning: rival fell from 2.00 to 1.60, by more than 15%"]
    assert benchmark.decreases(before, now | {"device": "another"}) == [] == benchmark.decreases({}, now)


@pytest.mark.parametrize(
    ("argument", "line"),
    [
        ("steps=[0]", "error: steps=[0]: must be a list, each a whole number from 1 to 1,024"),
        ("dtypes=[float64]", "error: dtypes=float64: must be a list, any of float32, tf32, bfloat16, float16"),
        ("methods=[diffusion]", "error: methods=diffusion: must be a list, any of "),
        ("preset=nothing", "error: "),
    ],
)
def test_bad_settings_are_one_line(benchmark: ModuleType, capsys, argument: str, line: str):
    with pytest.raises(SystemExit) as ended:
        benchmark.main([argument])
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith(line) and error.count("\n") == 1


@pytest.mark.chaos
def test_a_small_run(script: Path, tmp_path: Path):
    results = tmp_path / "generate.json"
    settings = ["preset=tiny", "steps=[1]", "peers=false", "seconds=0.01", f"results={results}", "device=cpu"]
    done = subprocess.run([sys.executable, str(script), *settings], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    record = json.loads(results.read_text())
    assert record["complete"] and not list(tmp_path.glob("*.part*"))
    whats = [figure["what"] for figure in record["figures"]]
    assert {"iterative3", "fully_nar", "iterative1", "iterative2", "autoregressive", "decoder, as written"} <= {*whats}
    assert all(figure["ms_a_picture"] > 0 for figure in record["figures"])
    assert "autoregressive, uncached" in done.stdout


def test_groups_cost_about_two_passes_in_place_of_sixteen(monkeypatch: pytest.MonkeyPatch, benchmark: ModuleType):
    ours = sys.modules["generate_ours"]
    flops = ours.flops("emage_346m")
    steps = flops.grouped_image("emage_346m", 16) - flops.text - flops.painting
    # Keys and values of the text are computed once, not per pass; 1,024 positions are content and queries once each.
    assert 1.6 * flops.decoder_pass < steps < 2.0 * flops.decoder_pass
