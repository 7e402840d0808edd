"""Verdicts on the paper's claims, from made-up numbers."""

from typing import Any

import pytest

from emage.reproduce.latency import summarize
from emage.reproduce.paper_numbers import TABLE3, TABLE6, OtherModel, PaperNumbers
from emage.reproduce.report import findings, tables
from emage.reproduce.report.results import REPORTED_METRICS, Results, RowResults

DISTANCE = next(measure for measure in REPORTED_METRICS if measure.name == "frechet_tokenizer")
RIGHT = next(measure for measure in REPORTED_METRICS if measure.name == "objects_right")


def row(key: str, *distances: float, right: tuple[float, ...] = (), seconds: tuple[float, ...] = ()) -> RowResults:
    values = {"frechet_tokenizer": list(distances), "objects_right": list(right)}
    latency: dict[str, Any] | None = {**summarize(seconds), "device": "cpu"} if seconds else None
    given = {name: given for name, given in values.items() if given}
    return RowResults(key, key, TABLE3.get(key, PaperNumbers()), given, latency)


def verdicts(results: Results) -> dict[str, str]:
    return {finding.claim: finding.verdict for finding in findings.find(results)}


@pytest.mark.parametrize(
    ("good", "bad", "verdict"),
    [
        ((1, 2, 3), (4, 5, 6), "shows, in 3 of 3 seeds"),
        ((1, 2, 5), (4, 5, 6), "not settled: better in 3 of 3 seeds, but the ranges overlap"),
        ((1, 2, 7), (4, 5, 6), "not settled: better in 2 of 3 seeds"),
        ((4, 5, 6), (1, 2, 3), "reversed, in 3 of 3 seeds"),
        ((4, 5, 6), (1, 2, 5), "not settled: better in 0 of 3 seeds, but the ranges overlap"),
        ((4, 5), (4, 5), "not settled: better in 0 of 2 seeds"),
        ((1,), (2,), "not settled: better in 1 of 1 seed"),
        ((2,), (1,), "not settled: better in 0 of 1 seed"),
        ((1,), (1,), "not settled: better in 0 of 1 seed"),
    ],
)
def test_which_is_better_seed_by_seed(good, bad, verdict):
    assert findings.compare(DISTANCE, row("a", *good), row("b", *bad)) == verdict
    turned = [row(key, right=tuple(-value for value in values)) for key, values in (("a", good), ("b", bad))]
    assert findings.compare(RIGHT, *turned) == verdict  # a higher fraction is better


def table3(**rows: RowResults) -> Results:
    return Results("table3", "Table 3", "small", list(rows.values()))


def test_the_order_of_the_methods_by_every_metric():
    found = verdicts(
        table3(
            one=row("iterative1", 9, 9, right=(0.3, 0.3)),
            two=row("iterative2", 8, 10, right=(0.4, 0.5)),
            three=row("iterative3", 1, 2, right=(0.1, 0.2)),
        )
    )
    distance, right = "Frechet distance (tokenizer)", "both objects correct"
    assert found[f"iterative3 is better than iterative2 (Table 3), by {distance}"] == "shows, in 2 of 2 seeds"
    assert found[f"iterative3 is better than iterative2 (Table 3), by {right}"] == "reversed, in 2 of 2 seeds"
    assert (
        found[f"iterative2 is better than iterative1 (Table 3), by {distance}"] == "not settled: better in 1 of 2 seeds"
    )
    assert not any("autoregressive" in claim for claim in found)  # the row is missing


def test_fully_nar_fails_if_it_is_much_worse_than_all_iterative_models():
    others = {f"iterative{i}": row(f"iterative{i}", 5, 5, right=(0.4, 0.5)) for i in (1, 2, 3)}
    claim = "The fully non-autoregressive model fails (Sec. 4.2), by "
    found = verdicts(table3(fully=row("fully_nar", 6, 9, right=(0.1, 0.24)), **others))
    assert found[claim + RIGHT.label] == "shows, in 2 of 2 seeds less than 50% of the worst iterative model's value"
    assert found[claim + DISTANCE.label] == "shows, in 2 of 2 seeds worse than all iterative models"
    found = verdicts(table3(fully=row("fully_nar", 6, 4, right=(0.2, 0.2)), **others))
    assert found[claim + RIGHT.label].startswith("not settled: in 1 of 2 seeds")
    assert found[claim + DISTANCE.label] == "not settled: in 1 of 2 seeds worse than all iterative models"


def test_sixteen_decoding_steps_are_near_thirty_two():
    def results(*figures: tuple[float, float, float]) -> Results:
        by_steps = zip((4, 16, 32), zip(*figures, strict=True), strict=True)
        return Results("table6", "Table 6", "small", [row(f"iterative3/steps={n}", *values) for n, values in by_steps])

    paper = (TABLE6[4].fid, TABLE6[16].fid, TABLE6[32].fid)
    (near,) = findings.find(results(paper, paper))
    assert near.verdict == "shows, in 2 of 2 seeds 16 decoding steps reach at least 90% of what 32 gain over 4"
    (far,) = findings.find(results((10, 6, 0), (10, 0.5, 0)))
    assert far.verdict.startswith("not settled: in 1 of 2 seeds")
    (none,) = findings.find(results((10, 9, 11)))
    assert none.verdict.startswith("not settled: in 0 of 1 seed")
    assert none.verdict.endswith("(32 gain nothing over 4 in 1)")


def test_faster_needs_quartiles_that_do_not_overlap():
    def verdict(fast: tuple[float, ...], slow: tuple[float, ...]) -> str:
        rows = {"three": row("iterative3", seconds=fast), "ar": row("autoregressive", seconds=slow)}
        (finding,) = findings.find(table3(**rows))
        return finding.verdict

    assert verdict((1, 1, 1), (48, 50, 52)) == "shows: 50 times as fast"
    assert verdict((1, 2, 3), (2, 2.5, 3)) == "not settled, the ranges overlap: 1.2 times as fast"
    assert verdict((2, 2, 2), (1, 1, 1)) == "reversed: 0.5 times as fast"


def test_the_report_has_the_papers_column_next_to_ours():
    results = Results(
        "table4",
        "Table 4: main results",
        "small",
        [row("iterative3", 1, 2, 3, right=(0.1, 0.2, 0.3), seconds=(1, 2, 3)), row("autoregressive/uncached")],
        others=(OtherModel("DALL-E", "12B", 28),),
        notes=("A note.",),
        made_by={"scale": "small", "commit": ["a", "b"]},
    )
    lines = tables.markdown(results, "table4.png").splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert rows[0].split("|")[1:5] == [
        "  ",
        " paper: FID ",
        " ours: Frechet distance (tokenizer) ",
        " ours: both objects correct ",
    ]
    assert rows[2] == "| DALL-E (12B) | 28 | – | – | – | – |"
    assert rows[3] == "| iterative3 | 24.97 | 2 (1 to 3) | 20.0% (10.0% to 30.0%) | 0.95 | 2 s (1.5 to 2.5) |"
    assert rows[4] == "| autoregressive/uncached | – | – | – | – | – |"
    assert "- A note." in lines and "- commit: a; b" in lines and "![Table 4: main results](table4.png)" in lines
    assert "compare rows, not columns" in "\n".join(lines)


def test_findings_of_all_studies():
    one = table3(a=row("iterative2", 2), b=row("iterative3", 1))
    text = tables.all_findings([one, Results("figure5", "Figure 5", "small", [])])
    assert "## Table 3" in text and "Figure 5" not in text
    claim = "iterative3 is better than iterative2 (Table 3), by Frechet distance (tokenizer)"
    assert f"- **{claim}**: not settled: better in 1 of 1 seed" in text
    assert "iterative3 1, iterative2 2" in text


def test_figure_3_has_a_verdict_by_the_last_losses():
    def results(*fully: float) -> Results:
        others = [RowResults(f"iterative{i}", "", values={"loss": [1.0, 1.1]}) for i in (1, 2, 3)]
        return Results(
            "figure3", "Figure 3", "small", [RowResults("fully_nar", "", values={"loss": [*fully]}), *others]
        )

    (higher,) = findings.find(results(2.0, 2.1))
    assert higher.claim.startswith("The fully non-autoregressive model fails (Sec. 4.2), by loss")
    assert higher.verdict == "shows, in 2 of 2 seeds worse than all iterative models"
    (lower,) = findings.find(results(0.5, 0.6))
    assert lower.verdict == "reversed, in 0 of 2 seeds worse than all iterative models"
