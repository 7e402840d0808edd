"""What became of every row of an ingest, for people: Markdown, a chart, a few sentences. All are functions
of the report alone; only `examples` reads files.

    report = {"rows_in", "written", "waiting": n, "filtered", "rejected", "failed": {cause: n},
              "won_back": n of a later pass of the download, "same_content": n,
              "datasets": {name: {"rows_in", "selected", "arrived", "written": n}}, "seconds": {stage: s},
              "stages": those that are finished}

`won_back` and `same_content` are None, and "arrived" and "written" are not there, where the stage that counts them has
not run.
A row is filtered before the download, fails in the download or in the decoder, is rejected for its caption, or is
written; what waits is between two stages. `emage.data.ingest.drop_reasons` says what each name means.
Captions and names of data sets are text from outside: nothing in them is Markdown, HTML or a command to a terminal.
"""

import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from emage.data.ingest.captions.caption_rules import RULES
from emage.data.ingest.drop_reasons import explain
from emage.utils import manifest
from emage.utils.image_grid import printable

Report = dict[str, Any]
CHART = "ingest_report.png"  # where the Markdown expects `chart`
LOST = ("filtered", "failed", "rejected")  # in the order in which it happens
REJECTED_FILE = "rejected.parquet"  # of a tokenized shard
SAME_CONTENT = "same_content"  # the one cause of "filtered" that is known only after the download
MOST_SHARDS = 64  # that examples are looked for in: 640,000 rows by default
EXAMPLE_LENGTH = 300  # characters


def outcomes(report: Report) -> list[tuple[str, str, int]]:
    """(outcome, cause, rows), each outcome's causes by count: the lines that add up to the rows that came in.

    Where the report does not add up, a line "unaccounted for" says by how much.
    """
    lines = [("written", "", report["written"])]
    lines += [("waiting", "for the next stage", report["waiting"])] if report["waiting"] else []
    lines += [(outcome, *item) for outcome in LOST for item in Counter(report[outcome]).most_common()]
    rest = report["rows_in"] - sum(rows for _, _, rows in lines)
    return lines + ([("unaccounted for", "", rest)] if rest else [])


def share(part: int, whole: int) -> str:
    """ "34.1%"; "<0.1%" for what would look like nothing."""
    if 0 < part < whole / 2000:
        return "<0.1%"
    return f"{part / whole if whole else 0:.1%}"


# --- In a few sentences ----------------------------------------------------------------------------------------------


def why(report: Report) -> list[str]:
    """What share was lost, mostly to what, and what can be done: one sentence each, the most telling first."""
    rows, filtered, failed, rejected = report["rows_in"], *(sum(report[outcome].values()) for outcome in LOST)
    dropped = report["filtered"].get(SAME_CONTENT, 0)  # by the shuffle: these had arrived
    asked = rows - filtered + dropped
    sentences = [f"{share(report['written'], rows)} of {rows:,} rows are in the token table."]
    if report["waiting"]:
        sentences.append(f"{report['waiting']:,} rows wait for the stages that have not run yet.")
    if filtered:
        sentences.append(f"{share(filtered, rows)} of the rows were filtered, {_mostly('filtered', report)}.")
    if failed:
        sentences.append(f"{share(failed, asked)} of the images did not arrive, {_mostly('failed', report)}.")
    if report["won_back"]:
        sentences.append(f"{report['won_back']:,} images arrived when they were asked for again in a later pass.")
    if rejected:
        sentences.append(
            f"{share(rejected, asked - failed)} of the captions were rejected, {_mostly('rejected', report)}."
        )
    if report["same_content"]:
        kept = "and were dropped" if dropped else "and were kept (shuffle.drop_same_content=true drops them)"
        sentences.append(f"{report['same_content']:,} images have the same bytes as another one {kept}.")
    return sentences + [f"{cause}: {advice}." for cause, advice in _advice(report, asked)]


def _mostly(outcome: str, report: Report) -> str:
    """Its commonest cause, in words: "most with http_404 (link rot: the page ...): nothing to do"."""
    (cause, rows), *_ = Counter(report[outcome]).most_common(1)
    says, advice = explain(outcome, cause)
    what = f" ({says[0].lower()}{says[1:].rstrip('.')})" if says and outcome != "rejected" else ""
    with_or_by = "with" if outcome == "failed" else "by"
    how_often = "most" if 2 * rows > sum(report[outcome].values()) else "most often"
    return f"{how_often} {with_or_by} {cause}{what}" + (": nothing to do" if outcome == "failed" and not advice else "")


def _advice(report: Report, asked: int) -> Iterator[tuple[str, str]]:
    """Causes of failure that took 1 % of the images or more and that something can be done about."""
    for cause, rows in Counter(report["failed"]).most_common():
        if rows >= 0.01 * asked and (advice := explain("failed", cause).advice):
            yield f"{share(rows, asked)} of the images failed with {cause}", advice


# --- Markdown --------------------------------------------------------------------------------------------------------


def markdown(report: Report, examples: dict[str, list[str]]) -> str:
    """The whole report. `examples`: captions by the rule that rejected them, see `examples`."""
    sections = [
        "# Ingest report",
        "\n".join(f"- {_text(sentence)}" for sentence in why(report)),
        f"## Where the rows went\n\n{_reconciliation(report)}\n\n![rows by data set and by cause]({CHART})",
        "## By data set\n\n" + _funnel(report),
        *(_causes(outcome, report) for outcome in LOST if report[outcome]),
        "## Time\n\n" + _times(report),
    ]
    if examples:
        sections.append("## Rejected captions, at random\n\n" + _examples(report, examples))
    return "\n\n".join([*sections, "## What to look at next\n\n" + _next_steps(report)]) + "\n"


def _reconciliation(report: Report) -> str:
    rows = report["rows_in"]
    totals: Counter[str] = Counter()
    for outcome, _, count in outcomes(report):
        totals[outcome] += count
    lines = [(outcome, f"{count:,}", share(count, rows)) for outcome, count in totals.items()]
    return _table(("", "rows", "share"), [*lines, ("**rows in**", f"**{rows:,}**", "**100.0%**")])


def _funnel(report: Report) -> str:
    steps = _steps(report)
    counts = dict(report["datasets"])
    if len(counts) > 1:
        counts = {"all": _all(report)} | counts
    lines = []
    for name, funnel in counts.items():
        cells = [f"{funnel[step]:,} ({share(funnel[step], funnel['rows_in'])})" for step in steps[1:]]
        lines.append((_code(name), f"{funnel['rows_in']:,}", *cells))
    return _table(("data set", *(step.replace("_", " ") for step in steps)), lines)


def _steps(report: Report) -> list[str]:
    """The steps of a funnel that have been taken."""
    by_stage = {"select": "selected", "download": "arrived", "shuffle": "written"}
    return ["rows_in", *(step for stage, step in by_stage.items() if stage in report["stages"])]


def _all(report: Report) -> Counter[str]:
    """The funnels of all data sets, added up."""
    total: Counter[str] = Counter()
    for funnel in report["datasets"].values():
        total.update(funnel)
    return total


def _causes(outcome: str, report: Report) -> str:
    counts = Counter(report[outcome])
    lines = [
        (_code(cause), f"{rows:,}", share(rows, counts.total()), _text(explain(outcome, cause).says))
        for cause, rows in counts.most_common()
    ]
    total = (f"**{outcome}**", f"**{counts.total():,}**", "**100.0%**", "")
    return f"## {outcome.capitalize()}, by cause\n\n" + _table(
        ("cause", "rows", "share", "what it means"), [*lines, total]
    )


def _times(report: Report) -> str:
    """A stage's rate is of the rows that came to it."""
    funnel = _all(report)
    took = {
        "select": funnel["rows_in"],
        "download": funnel["selected"],
        "tokenize": funnel["arrived"],
        "shuffle": funnel["written"],
    }
    lines = []
    for stage, seconds in report["seconds"].items():
        rate = f"{took[stage] / seconds:,.0f}" if seconds and took.get(stage) else ""
        lines.append((stage, f"{seconds:,.1f}", f"{took.get(stage, 0):,}", rate))
    note = (
        "Seconds are of the last run of a stage: of one that was stopped and went on, what was done before is not in."
    )
    return _table(("stage", "seconds", "rows", "rows/s"), lines) + "\n\n" + note


def _examples(report: Report, examples: dict[str, list[str]]) -> str:
    sections = []
    for rule in sorted(examples, key=lambda rule: -report["rejected"].get(rule, 0)):
        texts = [text[:EXAMPLE_LENGTH] + ("…" if len(text) > EXAMPLE_LENGTH else "") for text in examples[rule]]
        listed = "\n".join(f"- {_code(text)}" for text in texts)
        sections.append(f"### {rule}\n\n{_text(explain('rejected', rule).says)}\n\n{listed}")
    return "\n\n".join(sections)


def _next_steps(report: Report) -> str:
    steps = {
        "rejected": "Read the rejected captions above: a rule that rejects good ones shows there. All of them are in "
        "`tokenized/*/rejected.parquet`.",
        "failed": "Every URL that failed is in its shard's file that `manifest.json` calls `failures`, with its cause.",
        "written": "`emage inspect tokens sheet=sheet.png` says what the token table holds.",
        "waiting": "Give the same command without `stage=` for the stages that have not run.",
    }
    return "\n".join(f"- {step}" for outcome, step in steps.items() if report[outcome])


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """A Markdown table: words to the left, figures to the right."""
    figures = ("rows", "share", "seconds", "rows/s", "rows in", "selected", "arrived", "written")
    rule = tuple("---:" if name in figures else "---" for name in head)
    rows = ([cell.replace("|", "\\|") for cell in cells] for cells in (head, rule, *lines))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _text(text: str) -> str:
    """Running text in which nothing is markup. Our own backticks stay."""
    return re.sub(r"([\\*\[\]<&])", r"\\\1", printable(text))


def _code(text: str) -> str:
    """Text from outside as a code span, in which Markdown and HTML mean nothing; the fence is longer than any in it."""
    text = printable(text) or "(nothing)"
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


# --- Examples --------------------------------------------------------------------------------------------------------


def examples(tokenized: Path, seed: int = 0, each: int = 20) -> dict[str, list[str]]:
    """Rule -> up to `each` of the captions that it rejected, at random, from the shards of the tokenizing stage.

    Shards are read in random order until there are enough for every rule, at most MOST_SHARDS of them.
    """
    rng = np.random.default_rng(seed)
    numbers = sorted(name for name in os.listdir(tokenized) if name.isdigit()) if tokenized.is_dir() else []
    counts = (manifest.read_json(tokenized / manifest.NAME) or {}).get("rejected", {})
    wanted = {rule: min(each, counts[rule]) for rule in RULES if counts.get(rule)}
    found: dict[str, list[str]] = {rule: [] for rule in wanted}
    for place in rng.permutation(len(numbers))[:MOST_SHARDS]:
        if all(len(found[rule]) >= wanted[rule] for rule in wanted):
            break
        table = pq.read_table(tokenized / numbers[place] / REJECTED_FILE, columns=["caption", "cause"])
        rules, texts = table["cause"].to_pylist(), table["caption"].to_pylist()
        for row in rng.permutation(len(table)):
            if len(found.get(rules[row], ())) < wanted.get(rules[row], 0):
                found[rules[row]].append(texts[row] or "")
    return {rule: texts for rule, texts in found.items() if texts}


# --- Chart -----------------------------------------------------------------------------------------------------------

# Okabe and Ito's colours, which stay apart for colour-blind eyes; also in grey, written is the darkest.
_OUTCOMES = {
    "written": ("#0072B2", "written"),
    "waiting": ("#DDDDDD", "waiting"),
    "rejected": ("#E69F00", "dropped after the download"),
    "failed": ("#D55E00", "did not arrive"),
    "filtered": ("#999999", "filtered before the download"),
}
_MOST_SETS, _MOST_CAUSES = 10, 18  # bars; the rest is added up


def chart(report: Report) -> Image.Image:
    """Where the rows of each data set went, and the causes by count."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    sets, causes = _set_bars(report), _cause_bars(report)
    heights = (len(sets), max(1, len(causes)))
    figure = Figure(figsize=(10, 2 + 0.32 * sum(heights)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, height_ratios=heights)
    _draw_sets(above, sets)
    _draw_causes(below, causes, report["rows_in"])
    figure.legend(loc="outside upper left", ncols=len(_OUTCOMES), frameon=False, fontsize=9)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    with Image.open(file) as image:
        return image.convert("RGB")


def _set_bars(report: Report) -> list[tuple[str, dict[str, int]]]:
    """(data set, rows by what became of them), the largest first; the smallest ones are one bar."""
    funnels = sorted(report["datasets"].items(), key=lambda item: -item[1]["rows_in"])
    others: Counter[str] = Counter()
    for _, funnel in funnels[_MOST_SETS:]:
        others.update(funnel)
    shown = funnels[:_MOST_SETS] + ([(f"{len(funnels) - _MOST_SETS} others", others)] if others else [])
    steps = _steps(report)
    return [(name, _split(funnel, steps)) for name, funnel in shown]


def _split(funnel: dict[str, int], steps: list[str]) -> dict[str, int]:
    """A funnel's rows by where they are now. What the last step taken left over waits, or is written."""
    lost_at = {"selected": "filtered", "arrived": "failed", "written": "rejected"}
    parts = {"written" if steps[-1] == "written" else "waiting": funnel[steps[-1]]}
    for before, after in pairwise(steps):
        parts[lost_at[after]] = funnel[before] - funnel[after]
    return parts


def _cause_bars(report: Report) -> list[tuple[str, str, int]]:
    """(outcome whose colour it has, cause, rows), the largest first; the smallest ones are one bar."""
    lost = [line for line in outcomes(report) if line[0] in LOST]
    lost = [("rejected" if cause == SAME_CONTENT else outcome, cause, rows) for outcome, cause, rows in lost]
    lost.sort(key=lambda line: -line[2])
    rest = lost[_MOST_CAUSES:]
    return lost[:_MOST_CAUSES] + ([("waiting", f"{len(rest)} others", sum(n for *_, n in rest))] if rest else [])


def _draw_sets(axes: Any, bars: list[tuple[str, dict[str, int]]]) -> None:
    for outcome, (colour, label) in _OUTCOMES.items():
        widths = [100 * parts.get(outcome, 0) / max(1, sum(parts.values())) for _, parts in bars]
        if not any(widths):
            continue
        before = [_before(outcome, parts) for _, parts in bars]
        drawn = axes.barh(range(len(bars)), widths, left=before, color=colour, label=label, height=0.7)
        texts = [f"{width:.0f}%" if width >= 4 else "" for width in widths]
        axes.bar_label(
            drawn, texts, label_type="center", color="white" if outcome == "written" else "black", fontsize=9
        )
    names = [f"{_short(name)}  ({sum(parts.values()):,})" for name, parts in bars]
    _label(axes, names)
    axes.set_xlim(0, 100)
    axes.set_xticks([])
    axes.set_title("Where the rows went, by data set (rows in)", loc="left", fontsize=12)


def _before(outcome: str, parts: dict[str, int]) -> float:
    """Where an outcome's piece of a stacked bar begins, in percent."""
    earlier = list(_OUTCOMES)[: list(_OUTCOMES).index(outcome)]
    return 100 * sum(parts.get(name, 0) for name in earlier) / max(1, sum(parts.values()))


def _draw_causes(axes: Any, bars: list[tuple[str, str, int]], rows_in: int) -> None:
    colours = [_OUTCOMES[outcome][0] for outcome, *_ in bars]
    drawn = axes.barh(range(len(bars)), [rows for *_, rows in bars], color=colours, height=0.7)
    axes.bar_label(drawn, [f"{rows:,}  {share(rows, rows_in)}" for *_, rows in bars], padding=4, fontsize=9)
    _label(axes, [_short(cause) for _, cause, _ in bars])
    axes.set_xlim(0, 1.25 * max((rows for *_, rows in bars), default=1))
    axes.set_xticks([])
    axes.set_title(
        "Why rows were lost (rows, share of the rows in)" if bars else "No row was lost", loc="left", fontsize=12
    )


def _label(axes: Any, names: list[str]) -> None:
    """Names beside horizontal bars, the first on top; dollars in them are no formulas."""
    axes.set_yticks(range(len(names)), names, parse_math=False)
    axes.set_ylim(max(1, len(names)) - 0.5, -0.5)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 32 else name[:31] + "…"
