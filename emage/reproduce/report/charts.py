"""A study's results as an image: the paper's points beside ours, or learning curves (Figure 3)."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emage.reproduce.report.results import Found, Results
from emage.training import step_log
from emage.training.plot_curves import COLOURS, Curve, downsample, moving_mean
from emage.utils import manifest

OURS, PAPER = COLOURS[0], COLOURS[1]
GREY = "#999999"
_POINTS, _SMOOTHED = 400, 10  # of a learning curve; neighbours on either side that a mean is over


class Panel(NamedTuple):
    """One axis of the row chart: what the paper and ours have of a row, as (middle, low, high), or None."""

    title: str
    paper: Callable[[Found], float | None]
    ours: Callable[[Found], tuple[float, float, float] | None]
    unit: str
    is_log: bool = False


def rows(results: Results, path: Path) -> None:
    """One line a row, one panel a figure; what has other units has its own panel."""
    shown = [Found(other.name, f"{other.name} ({other.parameters})") for other in results.others] + results.rows
    published = {other.name: other.fid for other in results.others}
    panels = _panels(results, published)
    figure, axes = _figure(len(panels), len(shown))
    for axis, panel in zip(axes, panels, strict=True):
        _draw_panel(axis, panel, shown)
    axes[0].set_yticks(range(len(shown)), [row.label for row in shown])
    axes[0].set_ylim(len(shown) - 0.5, -0.5)  # shared: the first row on top
    figure.suptitle(results.title, x=0.01, ha="left", fontsize=13)
    _legend(figure, any(panel.paper(row) is not None for panel in panels for row in shown))
    _save(figure, path)


def _panels(results: Results, published: dict[str, float]) -> list[Panel]:
    """The paper's FID stands beside ours where ours is an FID, and by itself where ours is another distance."""

    def paper_fid(row: Found) -> float | None:
        return published.get(row.key, row.known.fid)

    def nothing(row: Found) -> None:
        return None

    def ours(name: str) -> Callable[[Found], tuple[float, float, float] | None]:
        return lambda row: row.span(name) if name in row.figures else None

    known = any(paper_fid(row) is not None for row in results.rows)
    measures = results.measures
    panels = []
    if known and not any(measure.name == "fid" for measure in measures):
        panels.append(Panel("The paper's FID", paper_fid, nothing, "FID, lower is better"))
    for measure in measures:
        title = measure.label[0].upper() + measure.label[1:]
        unit = f"{'share' if measure.is_share else measure.unit}, {measure.direction}"
        panels.append(Panel(title, paper_fid if measure.name == "fid" else nothing, ours(measure.name), unit))
    if any(row.latency for row in results.rows):
        panels.append(
            Panel("Latency, batch one", lambda r: r.known.latency, _seconds, "seconds an image, lower is better", True)
        )
    return panels


def _seconds(row: Found) -> tuple[float, float, float] | None:
    return (row.latency["median"], row.latency["lower"], row.latency["upper"]) if row.latency else None


def _draw_panel(axis: Any, panel: Panel, shown: Sequence[Found]) -> None:
    for place, row in enumerate(shown):
        if (known := panel.paper(row)) is not None:
            axis.plot(known, place, "D", color=PAPER, markerfacecolor="white", markeredgewidth=1.6, clip_on=False)
        if (found := panel.ours(row)) is not None:
            middle, low, high = found
            axis.plot((low, high), (place, place), color=OURS, linewidth=2.2, alpha=0.6, solid_capstyle="butt")
            axis.plot(middle, place, "o", color=OURS, clip_on=False)
    if panel.is_log:
        axis.set_xscale("log")
    else:
        axis.set_xlim(left=0)
    axis.set_title(panel.title, loc="left", fontsize=10.5)
    axis.set_xlabel(panel.unit, fontsize=9)


def _legend(figure: Any, has_paper: bool) -> None:
    from matplotlib.lines import Line2D

    ours = Line2D(
        [], [], color=OURS, marker="o", label="ours: mean and range over seeds; of seconds, median, quartiles"
    )
    paper = Line2D([], [], color=PAPER, marker="D", markerfacecolor="white", linestyle="", label="the paper")
    handles = [paper, ours] if has_paper else [ours]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=9)


# --- Learning curves --------------------------------------------------------------------------------------------------


def curves(methods: Mapping[str, Sequence[Path]], path: Path, title: str, warm: float = 0.0) -> None:
    """Figure 3: the loss of each method, by its label; mean over its runs (steps.jsonl of each) and their range.

    `warm`: the share of the steps at which a dotted line stands; 0 for none.
    """
    figure, (axis,) = _figure(1, 10)
    last = 0.0
    for colour, (label, runs) in zip(COLOURS, methods.items(), strict=False):
        step, values = losses(runs)  # (P,), (R,P)
        last = max(last, step[-1])
        axis.fill_between(step, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
        axis.plot(step, values.mean(0), color=colour, linewidth=1.8, label=f"{label} (seeds: {len(runs)})")
    if warm:
        axis.axvline(warm * last, color=GREY, linestyle=":", linewidth=1.2)
    axis.set_xlim(0, last)
    axis.set_xlabel("training step", fontsize=10)
    axis.set_ylabel("loss, nats a token (lower is better)", fontsize=10)
    axis.legend(frameon=False, fontsize=9.5)
    figure.suptitle(f"{title}: mean and range over seeds", x=0.01, ha="left", fontsize=13)
    _save(figure, path)


def losses(runs: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Steps (P,) and the runs' smoothed losses (R,P) at them, up to where the shortest run ends."""
    found = []
    for run in runs:
        columns = step_log.columns(run, ["loss"])
        found.append(downsample(columns["step"], columns["loss"], _POINTS))
    shared = min(found, key=lambda curve: curve.step[-1]).step
    return shared, np.stack([np.interp(shared, curve.step, _smoothed(curve)) for curve in found])


def _smoothed(curve: Curve) -> np.ndarray:
    return moving_mean(curve.value, min(_SMOOTHED, len(curve.value) // 10))


# --- Parts ------------------------------------------------------------------------------------------------------------


def _figure(panels: int, num_rows: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot there is no state, and no window

    size = (3.2 + 3.1 * panels if panels > 1 else 9, 1.7 + 0.36 * num_rows)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots(1, panels, sharey=True, squeeze=False)[0]
    for axis in axes:
        axis.grid(color="#E6E6E6", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=9, length=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GREY)
    return figure, axes


def _save(figure: Any, path: Path) -> None:
    with manifest.new_file(path) as fresh:
        figure.savefig(fresh, format="png")
