"""Results of a study as Markdown: a table with the paper's numbers next to ours, the settings, and the findings."""

from collections.abc import Sequence
from typing import Any

from emage.reproduce.paper_numbers import OtherModel
from emage.reproduce.report import findings
from emage.reproduce.report.findings import Finding
from emage.reproduce.report.results import Results, RowResults

NONE = "–"

# Beginnings of keys of `Results.made_by`, which are data in NAME.json, and the words that the report has for them.
MADE_BY_WORDS = {"judge ": "scorer ", "beware ": "warning ", "latency taken on": "latency measured on"}


def markdown(results: Results, image: str) -> str:
    """Return the text of NAME.md; `image` is the file name of its chart."""
    lines = [f"# {results.title}", ""]
    if results.rows:
        lines += [*_table(results), "", _how_to_read(results), ""]
    lines += [f"![{results.title}]({image})", ""]
    lines += [f"- {note}" for note in results.notes]
    lines += ["", "## Settings, data and machines", ""]
    lines += [f"- {_label(name)}: {_joined(value)}" for name, value in results.made_by.items()]
    if found := findings.find(results):
        lines += ["", "## Findings", "", findings.VERDICTS, "", *bullets(found)]
    return "\n".join(lines) + "\n"


def all_findings(studies: Sequence[Results]) -> str:
    """Return the text of findings.md: the findings of all studies."""
    lines = [
        "# What these results show",
        "",
        findings.VERDICTS,
        "Comparisons that are not the paper's end in (ours).",
        "",
    ]
    for results in studies:
        if found := findings.find(results):
            lines += [f"## {results.title}", "", *bullets(found), ""]
    return "\n".join(lines)


def bullets(found: Sequence[Finding]) -> list[str]:
    """Return the findings as lines of a Markdown list."""
    return [f"- {finding}" for finding in found]


def _table(results: Results) -> list[str]:
    has_latency = any(row.latency for row in results.rows)
    head = ["", "paper: FID", *(f"ours: {metric.label}" for metric in results.metrics)]
    head += ["paper: s per image", "ours: s per image"] if has_latency else []
    rows = [_other_model(other, len(head)) for other in results.others]
    rows += [_row(row, results, has_latency) for row in results.rows]
    return ["| " + " | ".join(columns) + " |" for columns in (head, ["---"] * len(head), *rows)]


def _row(row: RowResults, results: Results, has_latency: bool) -> list[str]:
    ours = [findings.span(metric, row) if metric.name in row.values else NONE for metric in results.metrics]
    times = [_number(row.paper.latency), findings.seconds(row.latency) if row.latency else NONE]
    return [row.label, _number(row.paper.fid), *ours, *(times if has_latency else [])]


def _other_model(other: OtherModel, num_columns: int) -> list[str]:
    columns = [f"{other.name} ({other.parameters})", f"{other.fid:g}"]
    return columns + [NONE] * (num_columns - len(columns))


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.2f}"


def _how_to_read(results: Results) -> str:
    """Explain directions and ranges, and that a Frechet distance of other features is not an FID."""
    sentences = ["FID: lower is better."]
    sentences += [f"{m.label[0].upper()}{m.label[1:]}: {m.direction}." for m in results.metrics if m.name != "fid"]
    sentences.append("Ours: mean over the seeds (minimum to maximum).")
    if any(row.latency for row in results.rows):
        sentences.append("Seconds: median (quartiles), batch size one; the paper's on one V100.")
    if not any(m.name == "fid" for m in results.metrics):
        sentences.append("Our distance uses other features and images than the paper's FID: compare rows, not columns.")
    return " ".join(sentences)


def _label(name: str) -> str:
    for start, words in MADE_BY_WORDS.items():
        if name.startswith(start):
            return words + name.removeprefix(start)
    return name


def _joined(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)
