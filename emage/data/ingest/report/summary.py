"""The sums of an ingest report, and sentences for the user on the dropped rows, the commonest reasons, and advice.

The functions of this folder take the report as the ingest writes it to ingest_report.json:

    {"rows_in", "written", "waiting": n, "filtered", "rejected", "failed": {drop reason: n},
     "won_back": n images that arrived in a retry round, "same_content": n images with the same bytes as another one,
     "datasets": {name: {"rows_in", "selected", "arrived", "written": n}}, "seconds": {stage: s},
     "stages": the names of the finished stages, "passed_over": sentences on files of the tables' folders that were not
     read, "miscounted": [{"dataset", "file", "read", "counted"}] of files in which the reader met another number of
     rows than a second count, by another way, found}

While the stage that counts them has not run, `won_back` and `same_content` are None, and "arrived" and "written" are
missing. A row is filtered before the download, fails in the download or in the decoder, is rejected for its caption,
or is written; a waiting row is between two stages.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from emage.data.ingest.drop_reasons import explain

Report = dict[str, Any]
DROPPED = ("filtered", "failed", "rejected")  # outcomes of dropped rows, in the order in which they happen
MAX_SHARES = 10  # data sets of the sentence on the token table; the rest is one number
SAME_CONTENT = "same_content"  # the only reason of "filtered" that is known after the download


def list_outcomes(report: Report) -> list[tuple[str, str, int]]:
    """Return lines (outcome, drop reason, rows), which add up to the rows that came in.

    The reasons of an outcome are sorted by their counts. If the report does not add up, the last line is
    "unaccounted for", with the difference.
    """
    lines = [("written", "", report["written"])]
    lines += [("waiting", "for the next stage", report["waiting"])] if report["waiting"] else []
    lines += [(outcome, *item) for outcome in DROPPED for item in Counter(report[outcome]).most_common()]
    rest = report["rows_in"] - sum(rows for _, _, rows in lines)
    return lines + ([("unaccounted for", "", rest)] if rest else [])


def percent(part: int, whole: int) -> str:
    """Return "34.1%", or "<0.1%" for a part that would be rounded to nothing."""
    if 0 < part < whole / 2000:
        return "<0.1%"
    return f"{part / whole if whole else 0:.1%}"


def list_steps(report: Report) -> list[str]:
    """Return the counts of a data set that are known so far: rows_in, selected, arrived, written."""
    by_stage = {"select": "selected", "download": "arrived", "shuffle": "written"}
    return ["rows_in", *(step for stage, step in by_stage.items() if stage in report["stages"])]


def summarize(report: Report) -> list[str]:
    """Return sentences for the user: what was written and dropped, the commonest drop reasons, and advice."""
    rows, filtered, failed, rejected = report["rows_in"], *(sum(report[outcome].values()) for outcome in DROPPED)
    dropped_late = report["filtered"].get(SAME_CONTENT, 0)  # by the shuffle: these images had arrived
    requested = rows - filtered + dropped_late
    sentences = [f"{percent(report['written'], rows)} of {rows:,} rows are in the token table."]
    if report["written"] and len(report["datasets"]) > 1:
        sentences.append(f"The token table is {_shares(report)}.")
    if report["waiting"]:
        sentences.append(f"{report['waiting']:,} rows wait for the stages that have not run yet.")
    if filtered:
        sentences.append(f"{percent(filtered, rows)} of the rows were filtered, {_commonest('filtered', report)}.")
    if failed:
        sentences.append(f"{percent(failed, requested)} of the images did not arrive, {_commonest('failed', report)}.")
    if report["won_back"]:
        sentences.append(f"{report['won_back']:,} images arrived in a later retry round.")
    if rejected:
        sentences.append(
            f"{percent(rejected, requested - failed)} of the captions were rejected, {_commonest('rejected', report)}."
        )
    if report["same_content"]:
        advice = "shuffle.drop_same_content=true drops them; leave it if these are several captions of one image"
        kept = "and were dropped" if dropped_late else f"and were kept ({advice})"
        sentences.append(f"{report['same_content']:,} images have the same bytes as another one {kept}.")
    for file in report.get("miscounted", []):  # not in reports of earlier versions
        sentences.append(
            f"{file['file']} of {file['dataset']}: {file['read']:,} rows were read, but a count of its lines finds "
            f"{file['counted']:,}: look for quotes that are not closed."
        )
    sentences += [f"{text}." for text in report.get("passed_over", [])]
    return sentences + [f"{problem}: {advice}." for problem, advice in _advice(report, requested)]


def _shares(report: Report) -> str:
    """Return each data set's share of the token table: "92.9% laion400m, 7.1% cc12m"."""
    written = Counter({name: steps["written"] for name, steps in report["datasets"].items()}).most_common()
    shown = [(rows, name) for name, rows in written[:MAX_SHARES]]
    if others := written[MAX_SHARES:]:
        shown.append((sum(rows for _, rows in others), f"{len(others)} others"))
    return ", ".join(f"{percent(rows, report['written'])} {name}" for rows, name in shown)


def _commonest(outcome: str, report: Report) -> str:
    """Return an outcome's commonest reason in words: "most with http_404 (link rot: the page ...): nothing to do"."""
    (reason, rows), *_ = Counter(report[outcome]).most_common(1)
    explanation = explain(outcome, reason)
    text = explanation.description
    meaning = f" ({text[0].lower()}{text[1:].rstrip('.')})" if text and outcome != "rejected" else ""
    with_or_by = "with" if outcome == "failed" else "by"
    how_often = "most" if 2 * rows > sum(report[outcome].values()) else "most often"
    hopeless = ": nothing to do" if outcome == "failed" and explanation.is_hopeless else ""
    return f"{how_often} {with_or_by} {reason}{meaning}{hopeless}"


def _advice(report: Report, requested: int) -> Iterator[tuple[str, str]]:
    """Yield (sentence, advice) for each drop reason of at least 1 % of the images, if something can be done."""
    for reason, rows in Counter(report["failed"]).most_common():
        explanation = explain("failed", reason)
        if rows >= 0.01 * requested and not explanation.is_hopeless:
            yield f"{percent(rows, requested)} of the images failed with {reason}", explanation.advice
