"""Findings: which of the paper's claims our results support, and never more than the spread over seeds allows.

Two rows are compared seed by seed. The three verdicts are in VERDICTS.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from emage.reproduce.report.results import ReportedMetric, Results, RowResults
from emage.reproduce.studies import ITERATIVE

VERDICTS = (
    "**Shows**: the claim holds in every seed, of at least two, and the ranges over the seeds do not overlap. "
    "**Reversed**: so does its opposite. **Not settled**: all else, and everything that has one seed."
)
# 16 decoding steps count as near 32 if they reach this fraction of what 32 gain over 4.
NEAR_FRACTION = 0.9
# A method has failed if its fraction of correct images is below this fraction of the worst iterative method's.
FAILURE_FRACTION = 0.5


class Finding(NamedTuple):
    """A claim of the paper, the verdict on it, and the numbers behind the verdict."""

    claim: str
    verdict: str
    numbers: str

    def __str__(self) -> str:
        return f"**{self.claim}**: {self.verdict}. {self.numbers}"


class ExpectedOrder(NamedTuple):
    """A claim that one row is better than another. `better` and `worse` are keys of rows."""

    claim: str
    better: str
    worse: str


EXPECTED_ORDERS: dict[str, tuple[ExpectedOrder, ...]] = {
    "table3": (
        ExpectedOrder("iterative3 is better than iterative2 (Table 3)", "iterative3", "iterative2"),
        ExpectedOrder("iterative2 is better than iterative1 (Table 3)", "iterative2", "iterative1"),
        ExpectedOrder("The autoregressive model is better than iterative3 (Table 3)", "autoregressive", "iterative3"),
    ),
    "table4": (
        ExpectedOrder(
            "The autoregressive model is a little better than iterative3 (Table 4)", "autoregressive", "iterative3"
        ),
    ),
    "table5": (
        ExpectedOrder(
            "CLIP is better than BERT, autoregressive (Table 5)", "autoregressive/clip", "autoregressive/bert"
        ),
        ExpectedOrder("CLIP is better than BERT, iterative1 (Table 5)", "iterative1/clip", "iterative1/bert"),
    ),
    "table6": (
        ExpectedOrder("8 decoding steps are better than 4 (Table 6)", "iterative3/steps=8", "iterative3/steps=4"),
        ExpectedOrder("16 decoding steps are better than 8 (Table 6)", "iterative3/steps=16", "iterative3/steps=8"),
    ),
    "methods": (
        ExpectedOrder(
            "Parallel autoregression is better than iterative3 in its best order (ours)",
            "parallel_autoregressive",
            "iterative3/halton",
        ),
        ExpectedOrder(
            "The autoregressive model is better than parallel autoregression (ours)",
            "autoregressive",
            "parallel_autoregressive",
        ),
        ExpectedOrder(
            "The autoregressive model is better than parallel autoregression after half of its steps (ours)",
            "autoregressive",
            "parallel_autoregressive/half",
        ),
        *(
            ExpectedOrder(
                f"Generating in Halton order is better than by confidence, {method} (ours)",
                f"{method}/halton",
                method,
            )
            for method in ITERATIVE
        ),
        ExpectedOrder(
            "Masks in Halton order are better than random ones, iterative1 (ours)",
            "iterative1/masks=halton",
            "iterative1/halton",
        ),
        ExpectedOrder(
            "Groups that grow with the cube of the step are better than cosine ones, parallel_autoregressive (ours)",
            "parallel_autoregressive",
            "parallel_autoregressive/groups=cosine",
        ),
    ),
    "figure4": (
        *(
            ExpectedOrder(
                f"Training {method} with linear masks is better than with cosine masks (Figure 4)",
                f"{method}/train=linear",
                f"{method}/train=cosine",
            )
            for method in ITERATIVE
        ),
        ExpectedOrder(
            "Generating with the cosine schedule is better than with the linear one (Sec. 4.7)",
            "iterative3/draw=cosine",
            "iterative3/draw=linear",
        ),
    ),
}


def find(results: Results) -> list[Finding]:
    """Return the findings of a study, one per claim and metric."""
    found = [finding for order in EXPECTED_ORDERS.get(results.name, ()) for finding in _order(results, order)]
    more: Mapping[str, Sequence[Callable[[Results], list[Finding]]]] = {
        "table3": (_fully_nar_fails, _is_faster),
        "table4": (_is_faster,),
        "table6": (_sixteen_is_near,),
        "figure3": (_fully_nar_fails,),
    }
    return found + [finding for findings_of in more.get(results.name, ()) for finding in findings_of(results)]


# --- One row better than another --------------------------------------------------------------------------------------


def _order(results: Results, order: ExpectedOrder) -> list[Finding]:
    """Return one finding per metric: metrics need not agree."""
    good, bad = results.row(order.better), results.row(order.worse)
    if good is None or bad is None:
        return []
    shared = [metric for metric in results.metrics if metric.name in good.values and metric.name in bad.values]
    return [
        Finding(f"{order.claim}, by {metric.label}", compare(metric, good, bad), _numbers(metric, good, bad))
        for metric in shared
    ]


def compare(metric: ReportedMetric, good: RowResults, bad: RowResults) -> str:
    """Return a verdict on whether `good` is better than `bad`, from the seeds in which it is and the two ranges."""
    ours, theirs = good.values[metric.name], bad.values[metric.name]
    pairs = list(zip(ours, theirs, strict=False))
    wins, losses = (sum(metric.better(*pair) for pair in ps) for ps in (pairs, [(b, a) for a, b in pairs]))
    n = len(pairs)
    if wins == n > 1 and _are_disjoint(metric, ours, theirs):
        return f"shows, in {n} of {n} seeds"
    if losses == n > 1 and _are_disjoint(metric, theirs, ours):
        return f"reversed, in {n} of {n} seeds"
    overlap = ", but the ranges overlap" if n > 1 and n in (wins, losses) else ""
    return f"not settled: better in {wins} of {n} {'seed' if n == 1 else 'seeds'}{overlap}"


def _are_disjoint(metric: ReportedMetric, good: Sequence[float], bad: Sequence[float]) -> bool:
    """Return whether the worst of `good` is better than the best of `bad`."""
    if metric.lower_is_better:
        return max(good) < min(bad)
    return min(good) > max(bad)


def _numbers(metric: ReportedMetric, *rows: RowResults) -> str:
    return ", ".join(f"{row.label} {span(metric, row)}" for row in rows)


def span(metric: ReportedMetric, row: RowResults) -> str:
    """Return the mean and, for several seeds, the range: "12.1 (11.8 to 12.5)"."""
    middle, low, high = map(metric.text, row.span(metric.name))
    return middle if len(row.values[metric.name]) == 1 else f"{middle} ({low} to {high})"


# --- Other claims -----------------------------------------------------------------------------------------------------


def _fully_nar_fails(results: Results) -> list[Finding]:
    fully_nar = results.row("fully_nar")
    iterative = [row for row in results.rows if row.key in ITERATIVE]
    if fully_nar is None or not iterative:
        return []
    claim = "The fully non-autoregressive model fails (Sec. 4.2), by "
    return [
        Finding(claim + metric.label, _failure(metric, fully_nar, iterative), _numbers(metric, fully_nar, *iterative))
        for metric in results.metrics
    ]


def _failure(metric: ReportedMetric, fully_nar: RowResults, iterative: Sequence[RowResults]) -> str:
    """Return the verdict: a fraction of correct images fails below a threshold, a distance if all others are better."""
    pairs = list(zip(fully_nar.values[metric.name], _by_seed(metric, iterative), strict=True))
    if metric.is_fraction:
        failed = [own < FAILURE_FRACTION * min(theirs) for own, theirs in pairs]
        return _verdict(failed, f"less than {FAILURE_FRACTION:.0%} of the worst iterative model's value")
    failed = [all(metric.better(other, own) for other in theirs) for own, theirs in pairs]
    return _verdict(failed, "worse than all iterative models")


def _sixteen_is_near(results: Results) -> list[Finding]:
    """Return the findings on Table 6: in the paper 16 decoding steps reach 98 % of what 32 gain over 4."""
    rows = [row for steps in (4, 16, 32) if (row := results.row(f"iterative3/steps={steps}")) is not None]
    found = []
    for metric in results.metrics if len(rows) == 3 else []:
        fractions = [_fraction_of_gain(metric, *values) for values in _by_seed(metric, rows)]
        near = [fraction is not None and fraction >= NEAR_FRACTION for fraction in fractions]
        verdict = _verdict(near, f"16 decoding steps reach at least {NEAR_FRACTION:.0%} of what 32 gain over 4")
        if None in fractions:
            verdict += f" (32 gain nothing over 4 in {fractions.count(None)})"
        claim = f"16 decoding steps are near 32 (Table 6), by {metric.label}"
        found.append(Finding(claim, verdict, _numbers(metric, *results.rows)))
    return found


def _by_seed(metric: ReportedMetric, rows: Sequence[RowResults]) -> list[tuple[float, ...]]:
    return list(zip(*(row.values[metric.name] for row in rows), strict=True))


def _verdict(holds: Sequence[bool], what: str) -> str:
    """Return a verdict from whether `what` holds in each seed."""
    n = len(holds)
    start = "not settled:" if n == 1 else "shows," if all(holds) else "not settled:" if any(holds) else "reversed,"
    return f"{start} in {sum(holds)} of {n} {'seed' if n == 1 else 'seeds'} {what}"


def _fraction_of_gain(metric: ReportedMetric, four: float, sixteen: float, most: float) -> float | None:
    return (sixteen - four) / (most - four) if metric.better(most, four) else None


def _is_faster(results: Results) -> list[Finding]:
    fast = results.row("iterative3")
    rows = [results.row(key) for key in ("autoregressive", "autoregressive/uncached")]
    return [
        Finding(
            f"iterative3 with 16 decoding steps is faster than: {slow.label} (about 50 times in the paper)",
            _speed(fast.latency, slow.latency),
            ", ".join(f"{row.label} {seconds(row.latency)}" for row in (fast, slow) if row.latency),
        )
        for slow in rows
        if fast and fast.latency and slow and slow.latency
    ]


def _speed(fast: dict[str, Any], slow: dict[str, Any]) -> str:
    """Compare the ranges between the quartiles: one image during which the machine was busy must not decide."""
    times = f"{slow['median'] / fast['median']:.2g} times as fast"
    if fast["upper"] < slow["lower"]:
        return f"shows: {times}"
    return f"reversed: {times}" if fast["lower"] > slow["upper"] else f"not settled, the ranges overlap: {times}"


def seconds(latency: dict[str, Any]) -> str:
    """Return the median and the quartiles: "0.95 s (0.94 to 0.97)"."""
    return f"{latency['median']:.3g} s ({latency['lower']:.3g} to {latency['upper']:.3g})"
