"""A study's results as Markdown: the paper's column beside ours, what made them, which of its findings show."""

from collections.abc import Sequence
from typing import Any

from emage.reproduce.report import findings
from emage.reproduce.report.findings import Finding
from emage.reproduce.report.results import Found, Results

NONE = "–"


def markdown(results: Results, image: str) -> str:
    """The whole report; `image`: the file name of its chart."""
    lines = [f"# {results.title}", ""]
    if results.rows:
        lines += [*_table(results), "", _how_to_read(results), ""]
    lines += [f"![{results.title}]({image})", ""]
    lines += [f"- {note}" for note in results.notes]
    lines += ["", "## What made it", "", *(f"- {name}: {_told(value)}" for name, value in results.made_by.items())]
    if found := findings.find(results):
        lines += ["", "## The paper's findings", "", *listed(found)]
    return "\n".join(lines) + "\n"


def all_findings(studies: Sequence[Results]) -> str:
    """findings.md: those of all studies in one list."""
    lines = ["# Which of the paper's findings show", ""]
    for results in studies:
        if found := findings.find(results):
            lines += [f"## {results.title}", "", *listed(found), ""]
    return "\n".join(lines)


def listed(found: Sequence[Finding]) -> list[str]:
    return [f"- {finding}" for finding in found]


def _table(results: Results) -> list[str]:
    measures, timed = results.measures, any(row.latency for row in results.rows)
    head = ["", "paper: FID", *(f"ours: {measure.label}" for measure in measures)]
    head += ["paper: s an image", "ours: s an image"] if timed else []
    rows = [_others(other, len(head)) for other in results.others]
    rows += [_row(row, results, timed) for row in results.rows]
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def _row(row: Found, results: Results, timed: bool) -> list[str]:
    ours = [findings.span(m, row) if m.name in row.figures else NONE for m in results.measures]
    times = [_number(row.known.latency), findings.seconds(row.latency) if row.latency else NONE]
    return [row.label, _number(row.known.fid), *ours, *(times if timed else [])]


def _others(other: Any, width: int) -> list[str]:
    cells = [f"{other.name} ({other.parameters})", f"{other.fid:g}"]
    return cells + [NONE] * (width - len(cells))


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _how_to_read(results: Results) -> str:
    """Directions and spreads, and that a Frechet distance of other features is no FID."""
    parts = ["FID: lower is better."]
    parts += [f"{m.label[0].upper()}{m.label[1:]}: {m.direction}." for m in results.measures if m.name != "fid"]
    parts.append("Ours: mean over the seeds (minimum to maximum).")
    if any(row.latency for row in results.rows):
        parts.append("Seconds: median (quartiles), batch one; the paper's on one V100.")
    if not any(m.name == "fid" for m in results.measures):
        parts.append("Our distance is over other features and images than the paper's FID: compare rows, not columns.")
    return " ".join(parts)


def _told(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
