"""The learning curves of one training run, or of several in one image (Figure 3: the loss of the methods).

    emage curves RUN [RUN ...] [output=curves.png] [title=TEXT]

A RUN is the output folder of a training: its steps.jsonl has the numbers, its run.json the method. Curves are
moving means; behind them, pale, stand the steps, or means over a few of them where there are more than an image shows.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from emage import config
from emage.config import cli
from emage.training import step_log
from emage.utils import manifest
from emage.utils.errors import InputError
from emage.utils.image_grid import printable

STEPS = "steps.jsonl"
FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".pdf", ".svg")
MAX_POINTS = 2_000  # of a pale curve: more than an image has columns of pixels
_WINDOWS = 100  # that a curve would be the means of, did they stand side by side; they move, one point at a time

# Column of the record -> title. The first is the large panel; one without any numbers is left out.
PANELS = {
    "loss": "loss (nats a token)",
    "accuracy_masked": "token accuracy, masked positions",
    "context_gain": "context gain: accuracy with the image's rest, minus without",
    "grad_norm": "gradient norm, before clipping",
    "lr": "learning rate",
}
_EXACT = ("lr",)  # no noise: nothing to smooth

# Okabe and Ito's colours, which stay apart for colour-blind eyes; the eighth run is the first one's, dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_DASHES = ("-", "--", ":", "-.")
_LONGEST = 44  # characters of a run's name


@dataclass(frozen=True)
class CurvesConfig:
    """Training runs -> their learning curves: emage curves RUN [RUN ...] key=value ..."""

    output: str = "curves.png"  # or .jpg, .webp, .pdf, .svg
    title: str | None = None


class Curve(NamedTuple):
    """(P,) steps and values, P at most MAX_POINTS."""

    step: np.ndarray
    value: np.ndarray


class Run(NamedTuple):
    name: str
    method: str  # "" where run.json does not say
    last_step: int
    curves: dict[str, Curve]  # by column, those that have any numbers


def plot(runs: Sequence[str | Path], path: str | Path, title: str | None = None) -> None:
    """Draws the curves of the runs in these folders into the image `path`, whose ending is one of FORMATS.

    Raises InputError where a folder holds no step of a training, or where the image can't be written.
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


def load(folder: str | Path, name: str) -> Run:
    """The curves of the run in a folder. Raises InputError where there is none."""
    file = Path(folder) / STEPS
    if not file.is_file():
        raise InputError(f"{folder}: no {STEPS} there; give the output folder of a training")
    columns = step_log.columns(file, list(PANELS))
    if not len(columns["step"]):
        raise InputError(f"{folder}: {STEPS} holds no step yet; try again when the training has taken some")
    curves = {column: downsample(columns["step"], columns[column], MAX_POINTS) for column in PANELS}
    curves = {column: curve for column, curve in curves.items() if len(curve.step)}
    if not curves:
        raise InputError(f"{folder}: {STEPS} has none of the numbers that are drawn ({', '.join(PANELS)})")
    return Run(name, _method(Path(folder)), int(columns["step"][-1]), curves)


def downsample(step: np.ndarray, value: np.ndarray, points: int) -> Curve:
    """(n,) -> at most `points` means over windows of equally many entries; what is NaN does not count."""
    there = ~np.isnan(value)
    step, value = step[there], value[there]
    if len(step) <= points:
        return Curve(step, value)
    edges = np.linspace(0, len(step), points, endpoint=False).astype(int)
    size = np.diff(edges, append=len(step))
    return Curve(np.add.reduceat(step, edges) / size, np.add.reduceat(value, edges) / size)


def moving_mean(value: np.ndarray, width: int) -> np.ndarray:
    """(n,) -> (n,) means over the `width` neighbours on either side.

    Near the start there are fewer, equally many on both sides, for curves are steep there; near the end fewer after.
    """
    place = np.arange(len(value))
    before = np.minimum(width, place)
    after = np.minimum(before, len(value) - 1 - place)
    total = np.concatenate([[0.0], np.cumsum(value)])
    return (total[place + after + 1] - total[place - before]) / (before + after + 1)


def _method(folder: Path) -> str:
    try:
        return str(manifest.read_json(folder / "run.json")["settings"]["method"])
    except (OSError, ValueError, LookupError, TypeError):  # a run of another program, or of another version
        return ""


def _name(folder: str | Path, runs: Sequence[str | Path]) -> str:
    """The folder's own name, or the whole path where several runs have that name."""
    own = [Path(run).resolve().name for run in runs]
    name = Path(folder).resolve().name
    name = printable(name if own.count(name) == 1 else str(folder))
    return name if len(name) <= _LONGEST else "…" + name[1 - _LONGEST :]


# --- The image -----------------------------------------------------------------------------------------------------


def _figure(runs: Sequence[Run], title: str | None) -> Any:
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
    """Names in the places of a grid of 6 columns: the first over the whole width, of the others two or three a row."""
    first, *others = columns
    in_row = 3 if len(others) == 3 else 2
    rows = [list(others[i : i + in_row]) for i in range(0, len(others), in_row)]
    return [[first] * 6] + [[name for name in row for _ in range(6 // len(row))] for row in rows]


def _panel(axes: Any, column: str, runs: Sequence[Run]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    drawn = []
    for number, run in enumerate(runs):
        if column in run.curves:
            drawn.append(_line(axes, column, run.curves[column], number, len(runs)))
    axes.set_ylim(*_limits(drawn))
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
    """Draws one run's curve; returns the values that are drawn pale, and those drawn on top."""
    colour, dashes = _style(number)
    means = curve.value if column in _EXACT else moving_mean(curve.value, len(curve.value) // (2 * _WINDOWS))
    if means is not curve.value:
        axes.plot(curve.step, curve.value, color=colour, alpha=0.3 if of == 1 else 0.18, linewidth=0.8, zorder=2)
    marker = "o" if len(means) <= 20 else ""
    axes.plot(curve.step, means, dashes, color=colour, linewidth=1.6, marker=marker, markersize=3, zorder=3)
    return curve.value, means


def _limits(drawn: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Room for all curves, and for all but the farthest 1 % of what is pale: a spike must not flatten the rest."""
    ends = [np.percentile(pale, (0.5, 99.5)) for pale, _ in drawn] + [(top.min(), top.max()) for _, top in drawn]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    level = high - low <= 1e-6 * abs(high)  # what differs is rounding
    margin = (0.05 * abs(high) or 1.0) if level else 0.05 * (high - low)
    return low - margin, high + margin


def _style(number: int) -> tuple[str, str]:
    return COLOURS[number % len(COLOURS)], _DASHES[number // len(COLOURS) % len(_DASHES)]


def _short(step: float) -> str:
    """500000 -> 500k."""
    return f"{step / 1000:g}k" if step >= 10_000 and math.isclose(step % 100, 0) else f"{step:g}"


def _legend(figure: Any, runs: Sequence[Run], title: str | None) -> None:
    """Above the panels, in no curve's way; it has the title, for Matplotlib would write one over the other."""
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
    """Exits with 2 on bad input."""
    runs = [word for word in argv if not word.startswith("-") and ("=" not in word or Path(word).is_dir())]
    with cli.one_line():
        settings = config.parse(CurvesConfig, [_as_text(word) for word in argv if word not in runs])
        if not runs:
            raise InputError("no run: give the output folder of a training, or several")
        plot(runs, settings.output, settings.title)
    print(f"{settings.output}: the curves of {', '.join(printable(str(run)) for run in runs)}")


def _as_text(word: str) -> str:
    """A title is text as it stands: as YAML, "Figure 3: loss" would be a mapping."""
    return f"title={json.dumps(word.removeprefix('title='))}" if word.startswith("title=") else word
