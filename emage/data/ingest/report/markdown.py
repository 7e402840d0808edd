"""The ingest report as a Markdown file.

Captions and names of data sets are text from outside: nothing in them acts as Markdown, HTML or terminal commands.
"""

from collections import Counter

from emage.data.ingest.drop_reasons import explain
from emage.data.ingest.report.summary import DROPPED, Report, list_outcomes, list_steps, percent, summarize
from emage.utils.untrusted.markdown import code_span, escape

CHART_FILE = "ingest_report.png"  # next to the Markdown file, which shows it
MAX_EXAMPLE_LENGTH = 300  # characters
SHARE = "share of the token table"  # a column


def format_markdown(report: Report, rejected: dict[str, list[str]]) -> str:
    """Return the whole report as Markdown.

    Args:
        report: See summary.py.
        rejected: Captions by the rule that rejected them, see rejected_captions.py.
    """
    sections = [
        "# Ingest report",
        "\n".join(f"- {escape(sentence)}" for sentence in summarize(report)),
        f"## Where the rows went\n\n{_outcome_table(report)}\n\n![rows by data set and by drop reason]({CHART_FILE})",
        "## By data set\n\n" + _dataset_table(report),
        *(_reason_section(outcome, report) for outcome in DROPPED if report[outcome]),
        "## Time\n\n" + _time_table(report),
    ]
    if rejected:
        sections.append("## Rejected captions, at random\n\n" + _rejected_section(report, rejected))
    return "\n\n".join([*sections, "## What to look at next\n\n" + _next_steps(report)]) + "\n"


def _outcome_table(report: Report) -> str:
    rows = report["rows_in"]
    totals: Counter[str] = Counter()
    for outcome, _, count in list_outcomes(report):
        totals[outcome] += count
    lines = [(outcome, f"{count:,}", percent(count, rows)) for outcome, count in totals.items()]
    return _table(("", "rows", "percent"), [*lines, ("**rows in**", f"**{rows:,}**", "**100.0%**")])


def _dataset_table(report: Report) -> str:
    steps = list_steps(report)
    counts = dict(report["datasets"])
    if len(counts) > 1:
        counts = {"all": _sum_of_datasets(report)} | counts
    is_finished = "written" in steps
    lines = []
    for name, rows in counts.items():
        values = [f"{rows[step]:,} ({percent(rows[step], rows['rows_in'])})" for step in steps[1:]]
        share = [percent(rows["written"], report["written"])] if is_finished else []
        lines.append((code_span(name), f"{rows['rows_in']:,}", *values, *share))
    head = ("data set", *(step.replace("_", " ") for step in steps), *([SHARE] if is_finished else []))
    return _table(head, lines)


def _sum_of_datasets(report: Report) -> Counter[str]:
    total: Counter[str] = Counter()
    for rows in report["datasets"].values():
        total.update(rows)
    return total


def _reason_section(outcome: str, report: Report) -> str:
    counts = Counter(report[outcome])
    lines = [
        (code_span(reason), f"{rows:,}", percent(rows, counts.total()), *map(escape, explain(outcome, reason)))
        for reason, rows in counts.most_common()
    ]
    total = (f"**{outcome}**", f"**{counts.total():,}**", "**100.0%**", "", "")
    table = _table(("drop reason", "rows", "percent", "what it means", "what to do"), [*lines, total])
    return f"## {outcome.capitalize()}, by drop reason\n\n{table}"


def _time_table(report: Report) -> str:
    """Return seconds and rows per second by stage; the rows are those that the stage received."""
    counts = _sum_of_datasets(report)
    rows_of_stage = {
        "select": counts["rows_in"],
        "download": counts["selected"],
        "tokenize": counts["arrived"],
        "shuffle": counts["written"],
    }
    lines = []
    for stage, seconds in report["seconds"].items():
        rows = rows_of_stage.get(stage, 0)
        lines.append((stage, f"{seconds:,.1f}", f"{rows:,}", f"{rows / seconds:,.0f}" if seconds and rows else ""))
    note = "Seconds are those of a stage's last run: if it was stopped and resumed, the time before is not included."
    return _table(("stage", "seconds", "rows", "rows/s"), lines) + "\n\n" + note


def _rejected_section(report: Report, rejected: dict[str, list[str]]) -> str:
    sections = []
    for rule in sorted(rejected, key=lambda rule: -report["rejected"].get(rule, 0)):
        captions = "\n".join(f"- {code_span(_truncated(caption))}" for caption in rejected[rule])
        sections.append(f"### {rule}\n\n{escape(explain('rejected', rule).description)}\n\n{captions}")
    return "\n\n".join(sections)


def _truncated(caption: str) -> str:
    return caption[:MAX_EXAMPLE_LENGTH] + ("…" if len(caption) > MAX_EXAMPLE_LENGTH else "")


def _next_steps(report: Report) -> str:
    steps = {
        "rejected": "Read the rejected captions above: they show whether a rule rejects good ones. All of them are in "
        "`tokenized/*/rejected.parquet`.",
        "failed": "Every URL that failed is in the file of its shard that `manifest.json` calls `failures`, with its "
        "drop reason in the column `cause`.",
        "written": "`emage inspect tokens sheet=sheet.png` shows what the token table holds.",
        "waiting": "Run the same command without `stage=` for the stages that have not run.",
    }
    return "\n".join(f"- {step}" for outcome, step in steps.items() if report[outcome])


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """Return a Markdown table: words are aligned left, numbers right."""
    numeric = ("rows", "percent", "seconds", "rows/s", "rows in", "selected", "arrived", "written", SHARE)
    alignment = tuple("---:" if name in numeric else "---" for name in head)
    rows = ([value.replace("|", "\\|") for value in values] for values in (head, alignment, *lines))
    return "\n".join(f"| {' | '.join(values)} |" for values in rows)
