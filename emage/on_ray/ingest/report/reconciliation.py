"""The report of an ingest: every row of the tables is written, waiting, or dropped for a reason that is counted.

    output/ingest_report.json, .md, .png    rows in = written + filtered + rejected (by rule) + failed (by drop reason)
    output/pictures.png, dropped.png        images that were taken; dropped rows with their reasons

The same numbers go into the MLflow run and to the terminal.
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from emage.data import table_check
from emage.data.ingest.report import chart, markdown, rejected_captions, summary
from emage.on_ray import tracking
from emage.on_ray.ingest import stages
from emage.on_ray.ingest.report import sheets
from emage.utils import manifest

DROPS = ("filtered", "rejected", "failed")  # outcomes of dropped rows, in the order of the report's keys
REPORT, MARKDOWN = "ingest_report.json", "ingest_report.md"
TAKEN_SHEET, DROPPED_SHEET = "pictures.png", "dropped.png"


def reconcile(done: dict[str, dict[str, Any]], output: Path) -> dict[str, Any]:
    """Return the report: the number of rows of the tables, and how many had which outcome.

    Args:
        done: Manifests of the finished stages, as `stages.read_finished` returns them.
        output: The ingest's folder.

    Raises:
        InputError: The token table is damaged.
        RuntimeError: The numbers of a stage do not add up.
    """
    dropped = {kind: Counter[str]() for kind in DROPS}
    before = done["select"]["rows"]
    for stage in stages.STAGES[: len(done)]:
        values = done[stage]
        for kind in DROPS:
            dropped[kind].update(values.get(kind, {}))
        num_dropped = sum(sum(values.get(kind, {}).values()) for kind in DROPS)
        if values["rows"] != before or values["written"] + num_dropped != before:
            raise RuntimeError(
                f"{stage} does not reconcile: {before} rows in, {values['written']} written, {num_dropped} dropped"
            )
        before = values["written"]
    written = 0
    if "shuffle" in done:
        table_check.check_table(str(output / "tokens"))
        files = [output / "tokens" / file["name"] for file in done["shuffle"]["files"]]
        written = sum(pq.read_metadata(file).num_rows for file in files)
        if written != before:
            raise RuntimeError(f"the token table holds {written} rows instead of {before}")
    return {
        "stages": list(done),  # that this report covers
        "rows_in": done["select"]["rows"],
        "written": written,
        "waiting": before - written,  # for the stages that have not run yet
        **{kind: dict(counts.most_common()) for kind, counts in dropped.items()},
        "same_content": done.get("shuffle", {}).get("same_content"),
        "won_back": done.get("download", {}).get("won_back"),
        "datasets": _count_by_dataset(done),
        "miscounted": done["select"].get("miscounted", []),  # not in manifests of earlier versions
        "passed_over": done["select"]["source"].get("passed_over", []),
    }


def _count_by_dataset(done: dict[str, dict[str, Any]]) -> dict[str, dict[str, int]]:
    """Return, for each data set, its rows that came in, were selected, arrived and were written, as far as known."""
    by_dataset = {name: dict(counts) for name, counts in done["select"]["datasets"].items()}
    for stage, outcome in (("download", "arrived"), ("shuffle", "written")):
        if stage in done:
            for name in by_dataset:
                by_dataset[name][outcome] = done[stage]["datasets"].get(name, 0)
    return by_dataset


def read_report(output: Path) -> dict[str, Any] | None:
    """Return the report that an earlier run of the same command wrote, or None."""
    return manifest.read_json(output / REPORT)


def write_report(tracked: tracking.TrackedRun, report: dict[str, Any], output: Path) -> None:
    """Write the report and its images, the JSON file last, and record all of it in the MLflow run."""
    rejected = rejected_captions.select_captions(output / "tokenized")
    (output / MARKDOWN).write_text(markdown.format_markdown(report, rejected))
    drawn = {
        markdown.CHART_FILE: chart.plot_chart(report),
        TAKEN_SHEET: sheets.draw_taken(output),
        DROPPED_SHEET: sheets.draw_dropped(report, output),
    }
    for name, image in drawn.items():
        if image is not None:
            image.save(output / name)
            tracked.image(name, image)
    manifest.write_json(output / REPORT, report)
    lines = summary.list_outcomes(report)
    columns = [list(column) for column in zip(*lines, strict=True)]
    tracked.table("reconciliation.json", dict(zip(("outcome", "cause", "rows"), columns, strict=True)))
    tracked.metrics(
        {_metric_name(f"{outcome}/{reason}" if reason else outcome): rows for outcome, reason, rows in lines}
    )
    tracked.metrics({outcome: sum(report[outcome].values()) for outcome in DROPS})
    tracked.metrics({"rows_in": report["rows_in"], **{f"seconds/{k}": s for k, s in report["seconds"].items()}})
    for name, counts in report["datasets"].items():
        tracked.metrics({_metric_name(f"dataset/{name}/{step}"): rows for step, rows in counts.items()})
    for name in (REPORT, MARKDOWN):
        tracked.file(output / name)


def _metric_name(name: str) -> str:
    """Return the name in characters that MLflow accepts: a condition such as similarity>=0.3 has others."""
    return re.sub(r"[^\w./ :-]", "_", name)


def print_report(report: dict[str, Any], output: Path) -> None:
    """Print the rows by outcome and drop reason, advice, and the paths of the results."""
    table = Table(title=escape(f"ingest of {', '.join(report['datasets'])}"), title_justify="left")
    for name in ("", "drop reason"):
        table.add_column(name)
    for name in ("rows", "percent"):
        table.add_column(name, justify="right")
    for outcome, reason, rows in summary.list_outcomes(report):
        table.add_row(outcome, escape(reason), f"{rows:,}", summary.percent(rows, report["rows_in"]))
    table.add_section()
    table.add_row("rows in", "", f"{report['rows_in']:,}", "100.0%")
    console = Console()
    console.print(table)
    for sentence in summary.summarize(report):
        console.print(sentence, markup=False, highlight=False, soft_wrap=True)
    console.print("  ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report["seconds"].items()))
    shown = [str(output / name) for name in (TAKEN_SHEET, DROPPED_SHEET) if (output / name).exists()]
    console.print(f"report: {', '.join([str(output / MARKDOWN), *shown])}", soft_wrap=True)
    console.print(f"token table: {output / 'tokens'}" if report["written"] else f"output: {output}", soft_wrap=True)
