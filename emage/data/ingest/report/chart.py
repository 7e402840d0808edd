"""The chart of the ingest report: the outcomes of each data set's rows, and the drop reasons by their counts."""

import io
from collections import Counter
from itertools import pairwise
from typing import Any

from PIL import Image

from emage.data.ingest.report.summary import DROPPED, SAME_CONTENT, Report, list_outcomes, list_steps, percent
from emage.utils.image_grid import printable

# Okabe and Ito's colours, which colour-blind readers can tell apart; also in grey, "written" is the darkest.
OUTCOMES = {  # outcome: (colour, label)
    "written": ("#0072B2", "written"),
    "waiting": ("#DDDDDD", "waiting"),
    "rejected": ("#E69F00", "dropped after the download"),
    "failed": ("#D55E00", "did not arrive"),
    "filtered": ("#999999", "filtered before the download"),
}
MAX_DATASET_BARS, MAX_REASON_BARS = 10, 18  # one further bar sums up the rest
MAX_NAME_LENGTH = 32  # characters next to a bar


def plot_chart(report: Report) -> Image.Image:
    """Return the chart of a report, RGB: a bar of outcomes per data set above, a bar per drop reason below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    datasets, reasons = dataset_bars(report), reason_bars(report)
    heights = (len(datasets), max(1, len(reasons)))
    figure = Figure(figsize=(10, 2 + 0.32 * sum(heights)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=heights)
    _plot_datasets(above, datasets)
    _plot_reasons(below, reasons, report["rows_in"])
    figure.legend(loc="outside upper left", ncols=len(OUTCOMES), frameon=False, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    with Image.open(file) as image:
        return image.convert("RGB")


def dataset_bars(report: Report) -> list[tuple[str, dict[str, int]]]:
    """Return (data set, rows by outcome), the largest first; the last bar sums up the smallest ones."""
    counts = sorted(report["datasets"].items(), key=lambda item: -item[1]["rows_in"])
    others: Counter[str] = Counter()
    for _, steps in counts[MAX_DATASET_BARS:]:
        others.update(steps)
    shown = counts[:MAX_DATASET_BARS] + ([(f"{len(counts) - MAX_DATASET_BARS} others", others)] if others else [])
    names = list_steps(report)
    return [(name, _rows_by_outcome(steps, names)) for name, steps in shown]


def _rows_by_outcome(counts: dict[str, int], steps: list[str]) -> dict[str, int]:
    """Return a data set's rows by outcome. The rows that are left after the last step are waiting or written."""
    dropped_at = {"selected": "filtered", "arrived": "failed", "written": "rejected"}
    rows = {"written" if steps[-1] == "written" else "waiting": counts[steps[-1]]}
    for before, after in pairwise(steps):
        rows[dropped_at[after]] = counts[before] - counts[after]
    return rows


def reason_bars(report: Report) -> list[tuple[str, str, int]]:
    """Return bars (outcome that gives the colour, drop reason, rows), largest first; the last sums up the smallest."""
    bars = [line for line in list_outcomes(report) if line[0] in DROPPED]
    # Rows with the same content are dropped after the download: their bar has the colour of "rejected".
    bars = [("rejected" if reason == SAME_CONTENT else outcome, reason, rows) for outcome, reason, rows in bars]
    bars.sort(key=lambda bar: -bar[2])
    rest = bars[MAX_REASON_BARS:]
    return bars[:MAX_REASON_BARS] + ([("waiting", f"{len(rest)} others", sum(n for *_, n in rest))] if rest else [])


def _plot_datasets(axes: Any, bars: list[tuple[str, dict[str, int]]]) -> None:
    for outcome, (colour, label) in OUTCOMES.items():
        widths = [100 * rows.get(outcome, 0) / max(1, sum(rows.values())) for _, rows in bars]
        if not any(widths):
            continue
        starts = [_start(outcome, rows) for _, rows in bars]
        container = axes.barh(range(len(bars)), widths, left=starts, color=colour, label=label, height=0.7)
        texts = [f"{width:.0f}%" if width >= 4 else "" for width in widths]
        text_colour = "white" if outcome == "written" else "black"
        axes.bar_label(container, texts, label_type="center", color=text_colour, fontsize=9)
    _label_bars(axes, [f"{_short(name)}  ({sum(rows.values()):,})" for name, rows in bars])
    axes.set_xlim(0, 100)
    axes.set_xticks([])
    axes.set_title("Where the rows went, by data set (rows in)", loc="left", fontsize=12)


def _start(outcome: str, rows: dict[str, int]) -> float:
    """Return the position at which an outcome's piece of a stacked bar begins, in percent."""
    earlier = list(OUTCOMES)[: list(OUTCOMES).index(outcome)]
    return 100 * sum(rows.get(name, 0) for name in earlier) / max(1, sum(rows.values()))


def _plot_reasons(axes: Any, bars: list[tuple[str, str, int]], rows_in: int) -> None:
    colours = [OUTCOMES[outcome][0] for outcome, *_ in bars]
    container = axes.barh(range(len(bars)), [rows for *_, rows in bars], color=colours, height=0.7)
    axes.bar_label(container, [f"{rows:,}  {percent(rows, rows_in)}" for *_, rows in bars], padding=4, fontsize=9)
    _label_bars(axes, [_short(reason) for _, reason, _ in bars])
    axes.set_xlim(0, 1.25 * max((rows for *_, rows in bars), default=1))
    axes.set_xticks([])
    title = "Why rows were dropped (rows, percent of the rows in)" if bars else "No row was dropped"
    axes.set_title(title, loc="left", fontsize=12)


def _label_bars(axes: Any, names: list[str]) -> None:
    """Write names next to horizontal bars, the first on top; dollars in them do not start formulas."""
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= MAX_NAME_LENGTH else name[: MAX_NAME_LENGTH - 1] + "…"
