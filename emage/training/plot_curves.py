"""Learning curves: plots of one training run, or of several in one image (paper, Figure 3: the methods' losses).

    emage curves RUN [RUN ...] [output=curves.png] [title=TEXT]

A RUN is the output folder of a training: its steps.jsonl has the values, its run.json the method. A curve is a moving
mean; the pale line behind it shows single steps, or means over a few steps if there are more than MAX_POINTS.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emage import config
from emage.training import step_log
from emage.utils import manifest
from emage.utils.errors import InputError, exit_on_bad_input
from emage.utils.image_grid import printable

STEPS = "steps.jsonl"
FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
MAX_POINTS = 2_000  # of a pale line: more than an image has columns of pixels
_WINDOWS = 100  # the window of the moving mean is the length of the curve divided by this

# Key of steps.jsonl -> title. The first is the large panel; a panel without values is left out.
PANELS = {
    "loss": "loss (nats per token)",
    "accuracy_masked": "token accuracy, masked positions",
    "context_gain": "context gain: accuracy with the rest of the image, minus without",
    "grad_norm": "gradient norm, before clipping",
    "lr": "learning rate",
}
_NOT_SMOOTHED = ("lr",)  # it has no noise

# Okabe and Ito's colours, distinguishable for colour-blind readers; the eighth run has the first colour, dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
_MAX_NAME_CHARS = 44


class Curve(NamedTuple):
    """(P,) steps and (P,) values, P at most MAX_POINTS."""

    step: np.ndarray
    value: np.ndarray


class RunCurves(NamedTuple):
    """The curves of one training run."""

    name: str
    method: str  # "" if run.json does not state it
    last_step: int
    curves: dict[str, Curve]  # by key of steps.jsonl, those that have any numbers


def plot(runs: Sequence[str | Path], path: str | Path, title: str | None = None) -> None:
    """Plot the curves of training runs into one image.

    Args:
        runs: Output folders of trainings.
        path: The image to write; its ending is one of FORMATS.
        title: Title of the image; None: the run's name and method, if there is one run.

    Raises:
        InputError: A folder has no step of a training, or the image cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"output={path}: end it in {', '.join(FORMATS)}")
    figure = _figure([load(folder, _name(folder, runs)) for folder in runs], title)
    try:
        with manifest.new_file(path) as fresh:
            figure.savefig(fresh, format=path.suffix[1:].lower())
    except OSError as error:
        raise InputError(f"output={path}: cannot be written ({error.strerror or error})") from None


def load(folder: str | Path, name: str) -> RunCurves:
    """Read the curves of a training run.

    Args:
        folder: The output folder of the training.
        name: Name of the run in the legend.

    Raises:
        InputError: The folder has no step of a training.
    """
    file = Path(folder) / STEPS
    if not file.is_file():
        raise InputError(f"{folder}: no {STEPS} in it; name the output folder of a training")
    columns = step_log.columns(file, list(PANELS))
    if not len(columns["step"]):
        raise InputError(f"{folder}: {STEPS} has no step yet; try again after the first steps of the training")
    curves = {column: downsample(columns["step"], columns[column], MAX_POINTS) for column in PANELS}
    curves = {column: curve for column, curve in curves.items() if len(curve.step)}
    if not curves:
        raise InputError(f"{folder}: {STEPS} has none of the metrics that are plotted ({', '.join(PANELS)})")
    return RunCurves(name, _method(Path(folder)), int(columns["step"][-1]), curves)


def downsample(step: np.ndarray, value: np.ndarray, points: int) -> Curve:
    """Reduce (n,) values to at most `points` means over windows of equally many entries, NaN left out."""
    is_number = ~np.isnan(value)
    step, value = step[is_number], value[is_number]
    if len(step) <= points:
        return Curve(step, value)
    edges = np.linspace(0, len(step), points, endpoint=False).astype(int)
    size = np.diff(edges, append=len(step))
    return Curve(np.add.reduceat(step, edges) / size, np.add.reduceat(value, edges) / size)


def moving_mean(value: np.ndarray, width: int) -> np.ndarray:
    """Return the (n,) means of (n,) values over each one's `width` neighbours on either side.

    Near the start the window is narrower, with equally many neighbours on both sides, since curves are steep there;
    near the end it has fewer neighbours after the value.
    """
    index = np.arange(len(value))
    before = np.minimum(width, index)
    after = np.minimum(before, len(value) - 1 - index)
    total = np.concatenate([[0.0], np.cumsum(value)])
    return (total[index + after + 1] - total[index - before]) / (before + after + 1)


def _method(folder: Path) -> str:
    try:
        return str(manifest.read_json(folder / "run.json")["settings"]["method"])
    except (OSError, ValueError, LookupError, TypeError):  # written by another program or version
        return ""


def _name(folder: str | Path, runs: Sequence[str | Path]) -> str:
    """Return the folder's name, or its whole path if several runs have that name."""
    own = [Path(run).resolve().name for run in runs]
    name = Path(folder).resolve().name
    name = printable(name if own.count(name) == 1 else str(folder))
    return name if len(name) <= _MAX_NAME_CHARS else "…" + name[1 - _MAX_NAME_CHARS :]


def _figure(runs: Sequence[RunCurves], title: str | None) -> Any:
    from matplotlib.figure import Figure  # without pyplot there is no state, and no window

    shown = [column for column in PANELS if any(column in run.curves for run in runs)]
    rows = _rows(shown)
    heights = [1.5 if len(row) == 1 else 1.0 for row in map(set, rows)]
    figure = Figure(figsize=(11, 0.8 + 2.7 * sum(heights)), dpi=110, layout="constrained")
    axes = figure.subplot_mosaic(rows, height_ratios=heights)  # type: ignore[arg-type]
    for column, panel in axes.items():
        _panel(panel, str(column), runs)
    if len(runs) > 1:
        _legend(figure, runs, title)
    else:
        run = runs[0]
        title = title or f"{run.name}: {run.method + ', ' if run.method else ''}{run.last_step:,} steps"
        figure.suptitle(printable(title), x=0.01, ha="left", fontsize=13, parse_math=False)
    return figure


def _rows(columns: Sequence[str]) -> list[list[str]]:
    """Return the layout of subplot_mosaic in 6 columns: the first name alone, then two or three per row."""
    first, *others = columns
    in_row = 3 if len(others) == 3 else 2
    rows = [list(others[i : i + in_row]) for i in range(0, len(others), in_row)]
    return [[first] * 6] + [[name for name in row for _ in range(6 // len(row))] for row in rows]


def _panel(axes: Any, column: str, runs: Sequence[RunCurves]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    plotted = []
    for number, run in enumerate(runs):
        if column in run.curves:
            plotted.append(_line(axes, column, run.curves[column], number, len(runs)))
    axes.set_ylim(*_limits(plotted))
    axes.set_xlim(0, max(run.last_step for run in runs) * 1.01)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=10 if column == "loss" else 6, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: _short(step)))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.set_title(PANELS[column], loc="left", fontsize=10.5)
    axes.set_xlabel("step", fontsize=9)
    axes.tick_params(labelsize=9, length=0)
    axes.grid(color="#E6E6E6", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#999999")


def _line(axes: Any, column: str, curve: Curve, number: int, of: int) -> tuple[np.ndarray, np.ndarray]:
    """Plot one run's curve; return the values of the pale line and those of the line on top."""
    colour, dashes = _style(number)
    means = curve.value if column in _NOT_SMOOTHED else moving_mean(curve.value, len(curve.value) // (2 * _WINDOWS))
    if means is not curve.value:
        axes.plot(curve.step, curve.value, color=colour, alpha=0.3 if of == 1 else 0.18, linewidth=0.8, zorder=2)
    marker = "o" if len(means) <= 20 else ""
    axes.plot(curve.step, means, dashes, color=colour, linewidth=1.6, marker=marker, markersize=3, zorder=3)
    return curve.value, means


def _limits(plotted: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Return the range of the y axis: all of the means, 99 % of the pale values, so that a spike flattens nothing."""
    ends = [np.percentile(pale, (0.5, 99.5)) for pale, _ in plotted] + [(top.min(), top.max()) for _, top in plotted]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    is_constant = high - low <= 1e-6 * abs(high)  # but for rounding
    margin = (0.05 * abs(high) or 1.0) if is_constant else 0.05 * (high - low)
    return low - margin, high + margin


def _style(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS) % len(_DASHES)]


def _short(step: float) -> str:
    """Return a step for the axis: 500000 as 500k."""
    return f"{step / 1000:g}k" if step >= 10_000 and math.isclose(step % 100, 0) else f"{step:g}"


def _legend(figure: Any, runs: Sequence[RunCurves], title: str | None) -> None:
    """Add the legend above the panels, with the title in it: Matplotlib would print one over the other."""
    from matplotlib.lines import Line2D

    styles: list[Any] = [_style(number) for number in range(len(runs))]
    handles = [Line2D([], [], color=colour, linestyle=dashes, linewidth=2) for colour, dashes in styles]
    # A label must not start with an underscore, or it isn't shown: the method goes first.
    labels = [f"{run.method or 'run'}: {run.name}" for run in runs]
    columns = 4 if max(map(len, labels)) <= 30 else 2
    legend = figure.legend(handles, labels, loc="outside upper left", ncols=columns, frameon=False, fontsize=9.5)
    if title:
        legend.set_title(printable(title), {"size": 13})
        legend.set_alignment("left")
    for text in (legend.get_title(), *legend.get_texts()):
        text.set_parse_math(False)


def main(argv: Sequence[str]) -> None:
    """Run `emage curves`. Bad input prints one line and exits with code 2."""
    runs = [word for word in argv if not word.startswith("-") and ("=" not in word or Path(word).is_dir())]
    with exit_on_bad_input():
        settings = config.parse(config.CurvesConfig, [_as_text(word) for word in argv if word not in runs])
        if not runs:
            raise InputError("no run: name the output folder of a training, or several")
        plot(runs, settings.output, settings.title)
    print(f"{settings.output}: the curves of {', '.join(printable(str(run)) for run in runs)}")


def _as_text(word: str) -> str:
    """Quote the title: as YAML, "Figure 3: loss" would be a mapping."""
    return f"title={json.dumps(word.removeprefix('title='))}" if word.startswith("title=") else word
