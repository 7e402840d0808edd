"""The chart of an ingest report: bars to scale, and never too many."""

import copy

import numpy as np
import pytest
from ingest_reports import REPORT

from emage.data.ingest.report import chart


def coloured(image, colour: str) -> np.ndarray:
    """Return (H, W) bool, True at the pixels of exactly this colour."""
    wanted = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return (np.asarray(image) == wanted).all(axis=-1)


def test_bars_are_to_scale():
    report = REPORT | {
        "datasets": {"web": REPORT["datasets"]["laion400m"]},
        "rejected": {},
        "failed": {},
        "filtered": {},
    }
    image = chart.plot_chart(report)  # without drop reasons only the bar of the data set has colours
    widths = {outcome: coloured(image, colour).sum(axis=1).max() for outcome, (colour, _) in chart.OUTCOMES.items()}
    whole = sum(widths.values())
    for outcome, fraction in {"written": 0.4, "rejected": 0.1, "failed": 0.25, "filtered": 0.25, "waiting": 0}.items():
        assert widths[outcome] / whole == pytest.approx(fraction, abs=0.01), outcome


def test_the_size_is_bounded_for_any_number_of_bars():
    many = copy.deepcopy(REPORT)
    many["failed"] = {f"http_{code}": 1 for code in range(400, 599)}
    many["datasets"] = {f"set {i} $x_$" + "y" * 99: dict(REPORT["datasets"]["cc3m"]) for i in range(40)}
    small, large = chart.plot_chart(REPORT), chart.plot_chart(many)
    assert small.mode == "RGB" and small.width == large.width
    assert small.height < large.height < 1500
    assert [name for name, _ in chart.dataset_bars(many)][-1] == "30 others"
    assert chart.reason_bars(many)[-1] == ("waiting", "185 others", 185)
