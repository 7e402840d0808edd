"""Results of a study as an image: the paper's numbers next to ours, or learning curves (Figure 3).

Letters: P points of a learning curve, R runs.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emage.reproduce.report.results import Results, RowResults
from emage.training import step_log
from emage.training.plot_curves import COLOURS, downsample, moving_mean
from emage.utils import manifest

OURS, PAPER = COLOURS[0], COLOURS[1]
GREY = "#999999"
MAX_POINTS = 100  # of a learning curve
LAST_STEPS = 100  # whose mean loss is the loss at the end
SMOOTHING = 3  # points on either side that a mean is taken over


class Panel(NamedTuple):
    """One axis of a row chart.

    Args:
        title: Above the axis.
        paper: Return the paper's number for a row, or None.
        ours: Return our (middle, low, high) for a row, or None.
        unit: Label of the axis.
        is_log: Use a logarithmic axis.
    """

    title: str
    paper: Callable[[RowResults], float | None]
    ours: Callable[[RowResults], tuple[float, float, float] | None]
    unit: str
    is_log: bool = False


def rows(results: Results, path: Path) -> None:
    """Plot one line per row and one panel per metric."""
    shown = [RowResults(other.name, f"{other.name} ({other.parameters})") for other in results.others] + results.rows
    published = {other.name: other.fid for other in results.others}
    panels = _panels(results, published)
    figure, axes = _figure(len(panels), len(shown))
    for axis, panel in zip(axes, panels, strict=True):
        _plot_panel(axis, panel, shown)
    axes[0].set_yticks(range(len(shown)), [row.label for row in shown])
    axes[0].set_ylim(len(shown) - 0.5, -0.5)  # shared: the first row on top
    figure.suptitle(results.title, x=0.01, ha="left", fontsize=13)
    _legend(figure, any(panel.paper(row) is not None for panel in panels for row in shown))
    _save(figure, path)


def _panels(results: Results, published: dict[str, float]) -> list[Panel]:
    """Return the panels. The paper's FID is next to ours if ours is an FID, and has its own panel if it is not."""

    def paper_fid(row: RowResults) -> float | None:
        return published.get(row.key, row.paper.fid)

    def nothing(row: RowResults) -> None:
        return None

    def ours(name: str) -> Callable[[RowResults], tuple[float, float, float] | None]:
        return lambda row: row.span(name) if name in row.values else None

    has_paper_fid = any(paper_fid(row) is not None for row in results.rows)
    metrics = results.metrics
    panels = []
    if has_paper_fid and not any(metric.name == "fid" for metric in metrics):
        panels.append(Panel("The paper's FID", paper_fid, nothing, "FID, lower is better"))
    for metric in metrics:
        title = metric.label[0].upper() + metric.label[1:]
        unit = f"{'fraction' if metric.is_fraction else metric.unit}, {metric.direction}"
        panels.append(Panel(title, paper_fid if metric.name == "fid" else nothing, ours(metric.name), unit))
    if any(row.latency for row in results.rows):
        unit = "seconds per image, lower is better"
        panels.append(Panel("Latency, batch size one", lambda row: row.paper.latency, _seconds, unit, is_log=True))
    return panels


def _seconds(row: RowResults) -> tuple[float, float, float] | None:
    return (row.latency["median"], row.latency["lower"], row.latency["upper"]) if row.latency else None


def _plot_panel(axis: Any, panel: Panel, shown: Sequence[RowResults]) -> None:
    for position, row in enumerate(shown):
        if (paper := panel.paper(row)) is not None:
            axis.plot(paper, position, "D", color=PAPER, markerfacecolor="white", markeredgewidth=1.6, clip_on=False)
        if (ours := panel.ours(row)) is not None:
            middle, low, high = ours
            axis.plot((low, high), (position, position), color=OURS, linewidth=2.2, alpha=0.6, solid_capstyle="butt")
            axis.plot(middle, position, "o", color=OURS, clip_on=False)
    if panel.is_log:
        axis.set_xscale("log")
    else:
        axis.set_xlim(left=0)
    axis.set_title(panel.title, loc="left", fontsize=10.5)
    axis.set_xlabel(panel.unit, fontsize=9)


def _legend(figure: Any, has_paper: bool) -> None:
    from matplotlib.lines import Line2D

    label = "ours: mean and range over seeds; of seconds, median and quartiles"
    ours = Line2D([], [], color=OURS, marker="o", label=label)
    paper = Line2D([], [], color=PAPER, marker="D", markerfacecolor="white", linestyle="", label="the paper")
    handles = [paper, ours] if has_paper else [ours]
    figure.legend(handles=handles, loc="outside lower left", ncols=2, frameon=False, fontsize=9)


# --- Learning curves --------------------------------------------------------------------------------------------------


def loss_curve(log: Path) -> dict[str, Any]:
    """Return what a training's result keeps of its steps.jsonl: the mean loss of the last steps, and a smooth curve."""
    columns = step_log.columns(log, ["loss"])
    curve = downsample(columns["step"], columns["loss"], MAX_POINTS)
    smooth = moving_mean(curve.value, min(SMOOTHING, len(curve.value) // 10))
    return {
        "loss": float(columns["loss"][-LAST_STEPS:].mean()),
        "curve": {"step": curve.step.tolist(), "loss": [round(value, 5) for value in smooth.tolist()]},
    }


def curves(
    methods: Mapping[str, Sequence[dict[str, list[float]]]], path: Path, title: str, warm_start: float = 0.0
) -> None:
    """Plot the loss of each method, mean and range over its runs (Figure 3).

    Args:
        methods: The "curve" of each run, from `loss_curve`, by the method's label.
        path: The PNG file to write.
        title: Above the plot.
        warm_start: Fraction of the steps at which a dotted line is plotted; 0 for none.
    """
    figure, (axis,) = _figure(1, 10)
    last = 0.0
    for colour, (label, runs) in zip(COLOURS, methods.items(), strict=False):
        step, values = losses(runs)  # (P,), (R, P)
        last = max(last, step[-1])
        axis.fill_between(step, values.min(0), values.max(0), color=colour, alpha=0.2, linewidth=0)
        axis.plot(step, values.mean(0), color=colour, linewidth=1.8, label=f"{label} (seeds: {len(runs)})")
    if warm_start:
        axis.axvline(warm_start * last, color=GREY, linestyle=":", linewidth=1.2)
    axis.set_xlim(0, last)
    _label(figure, axis, title, "training step", "loss, nats per token (lower is better)")
    _save(figure, path)


def losses(runs: Sequence[dict[str, list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Return steps (P,) and the losses (R, P) of the runs at them, up to the end of the shortest run."""
    shared = np.array(min((run["step"] for run in runs), key=lambda steps: steps[-1]))
    return shared, np.stack([np.interp(shared, run["step"], run["loss"]) for run in runs])


# --- Quality by cost --------------------------------------------------------------------------------------------------


def quality_by_cost(
    results: Results, lines: Mapping[str, Sequence[tuple[str, float]]], metric: str, axis_label: str, path: Path
) -> None:
    """Plot a metric, mean and range over seeds, against a cost on a logarithmic axis.

    Args:
        results: Of a study.
        lines: The points of each line, by its label: (key of a row, cost).
        metric: Name of the metric.
        axis_label: What the cost is, with its unit.
        path: The PNG file to write.
    """
    figure, (axis,) = _figure(1, 10)
    for colour, (label, points) in zip(COLOURS, lines.items(), strict=False):
        found = [(cost, row.span(metric)) for key, cost in points if (row := results.row(key)) and metric in row.values]
        costs, spans = [cost for cost, _ in found], np.array([span for _, span in found]).reshape(-1, 3)
        axis.vlines(costs, spans[:, 1], spans[:, 2], color=colour, alpha=0.5, linewidth=2.2)
        axis.plot(costs, spans[:, 0], "o-", color=colour, linewidth=1.6, label=label)
    axis.set_xscale("log")
    axis.set_ylim(0, 1)
    described = next(one for one in results.metrics if one.name == metric)
    _label(figure, axis, results.title, axis_label, f"{described.label}, fraction ({described.direction})")
    _save(figure, path)


# --- Figures ----------------------------------------------------------------------------------------------------------


def _figure(num_panels: int, num_rows: int) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot there is no global state and no window

    size = (3.2 + 3.1 * num_panels if num_panels > 1 else 9, 1.7 + 0.36 * num_rows)
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    axes = figure.subplots(1, num_panels, sharey=True, squeeze=False)[0]
    for axis in axes:
        axis.grid(color="#E6E6E6", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=9, length=0)
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(GREY)
    return figure, axes


def _label(figure: Any, axis: Any, title: str, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=10)
    axis.set_ylabel(y, fontsize=10)
    axis.legend(frameon=False, fontsize=9.5)
    figure.suptitle(f"{title}: mean and range over seeds", x=0.01, ha="left", fontsize=13)


def _save(figure: Any, path: Path) -> None:
    with manifest.new_file(path) as fresh:
        figure.savefig(fresh, format="png")
