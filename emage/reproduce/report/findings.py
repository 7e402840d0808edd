"""Which of the paper's findings show in our figures, computed from them, and never more than the spread allows.

Two rows are compared seed by seed. "Shows" asks for every seed, and for ranges over the seeds that do not overlap.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from emage.reproduce.report.results import Found, Measure, Results

NEAR = 0.9  # share of what 32 iterations gain over 4 that 16 must have gained to be called near
HARDLY = 0.5  # of the share of right images of the worst iterative method: below it a method has failed


class Finding(NamedTuple):
    claim: str  # the paper's
    verdict: str
    numbers: str

    def __str__(self) -> str:
        return f"**{self.claim}**: {self.verdict}. {self.numbers}"


class Order(NamedTuple):
    """A claim that one row is better than another."""

    claim: str
    better: str  # keys of rows
    worse: str


ORDERS: dict[str, tuple[Order, ...]] = {
    "table3": (
        Order("#3 is better than #2 (Table 3)", "iterative3", "iterative2"),
        Order("#2 is better than #1 (Table 3)", "iterative2", "iterative1"),
        Order("The autoregressive model is better than #3 (Table 3)", "autoregressive", "iterative3"),
    ),
    "table4": (Order("The autoregressive model is a little better than #3 (Table 4)", "autoregressive", "iterative3"),),
    "table5": (
        Order("CLIP is better than BERT, autoregressive (Table 5)", "autoregressive/clip", "autoregressive/bert"),
        Order("CLIP is better than BERT, #1 (Table 5)", "iterative1/clip", "iterative1/bert"),
    ),
    "figure4": (
        *(
            Order(
                f"Training #{i} with linear masks is better than with cosine ones (Figure 4)",
                f"iterative{i}/train=linear",
                f"iterative{i}/train=cosine",
            )
            for i in (1, 2, 3)
        ),
        Order(
            "Drawing by the cosine is better than linearly (Sec. 4.7)",
            "iterative3/draw=cosine",
            "iterative3/draw=linear",
        ),
    ),
}


def find(results: Results) -> list[Finding]:
    """What a study says of the paper's findings."""
    found = [finding for order in ORDERS.get(results.name, ()) for finding in _order(results, order)]
    more: Mapping[str, Sequence[Callable[[Results], list[Finding]]]] = {
        "table3": (_fully_nar_fails, _is_faster),
        "table4": (_is_faster,),
        "table6": (_sixteen_is_near,),
    }
    return found + [finding for look in more.get(results.name, ()) for finding in look(results)]


# --- One better than another ------------------------------------------------------------------------------------------


def _order(results: Results, order: Order) -> list[Finding]:
    """One finding a measure: they need not agree."""
    good, bad = results.row(order.better), results.row(order.worse)
    if good is None or bad is None:
        return []
    shared = [m for m in results.measures if m.name in good.figures and m.name in bad.figures]
    return [
        Finding(f"{order.claim}, by {measure.label}", compare(measure, good, bad), _numbers(measure, good, bad))
        for measure in shared
    ]


def compare(measure: Measure, good: Found, bad: Found) -> str:
    """In how many seeds `good` is better than `bad`, in words that promise no more than that."""
    pairs = list(zip(good.figures[measure.name], bad.figures[measure.name], strict=False))
    wins, losses = (sum(measure.better(*pair) for pair in ps) for ps in (pairs, [(b, a) for a, b in pairs]))
    n = len(pairs)
    if n == 1:
        verdicts = {(1, 0): "shows in the one seed", (0, 1): "does not show: the reverse, in the one seed"}
        return verdicts.get((wins, losses), "does not show: equal in the one seed") + ", which settles nothing"
    if wins == n:
        apart = _apart(measure, good.figures[measure.name], bad.figures[measure.name])
        return f"shows, over all {n} seeds" if apart else f"in all {n} seeds, but the ranges over seeds overlap"
    if losses == n:
        apart = _apart(measure, bad.figures[measure.name], good.figures[measure.name])
        return f"does not show: the reverse in all {n} seeds" + ("" if apart else ", with ranges that overlap")
    return f"not settled: in {wins} of {n} seeds"


def _apart(measure: Measure, good: Sequence[float], bad: Sequence[float]) -> bool:
    """Whether the worst of `good` is better than the best of `bad`."""
    if measure.lower_is_better:
        return max(good) < min(bad)
    return min(good) > max(bad)


def _numbers(measure: Measure, *rows: Found) -> str:
    return ", ".join(f"{row.label} {span(measure, row)}" for row in rows)


def span(measure: Measure, row: Found) -> str:
    """Mean and, of several seeds, range: 12.1 (11.8 to 12.5)."""
    middle, low, high = map(measure.text, row.span(measure.name))
    return middle if len(row.figures[measure.name]) == 1 else f"{middle} ({low} to {high})"


# --- The others -------------------------------------------------------------------------------------------------------


def _fully_nar_fails(results: Results) -> list[Finding]:
    fully = results.row("fully_nar")
    others = [row for row in results.rows if row.key in ("iterative1", "iterative2", "iterative3")]
    if fully is None or not others:
        return []
    claim = "The fully non-autoregressive model fails (Sec. 4.2), by "
    return [
        Finding(claim + measure.label, _failure(measure, fully, others), _numbers(measure, fully, *others))
        for measure in results.measures
    ]


def _failure(measure: Measure, fully: Found, others: Sequence[Found]) -> str:
    """By a share of right images, failing is a number; by a distance it is to be behind all others."""
    pairs = list(zip(fully.figures[measure.name], _by_seed(measure, others), strict=True))
    if measure.is_share:
        failed = [own < HARDLY * min(theirs) for own, theirs in pairs]
        return _counted(failed, f"less than {HARDLY:.0%} of what the worst iterative model reaches")
    failed = [all(measure.better(other, own) for other in theirs) for own, theirs in pairs]
    return _counted(failed, "behind all iterative models")


def _sixteen_is_near(results: Results) -> list[Finding]:
    """Table 6: of what 32 iterations gain over 4, 98 % are there at 16 in the paper."""
    rows = [results.row(f"iterative3/steps={steps}") for steps in (4, 16, 32)]
    there = [row for row in rows if row is not None]
    found = []
    for measure in results.measures if len(there) == 3 else []:
        shares = [_share_gained(measure, *figures) for figures in _by_seed(measure, there)]
        near = [share is not None and share >= NEAR for share in shares]
        verdict = _counted(near, f"16 iterations have at least {NEAR:.0%} of what 32 gain over 4")
        if None in shares:
            verdict += f" (32 gain nothing over 4 in {shares.count(None)})"
        claim = f"16 iterations are near 32 (Table 6), by {measure.label}"
        found.append(Finding(claim, verdict, _numbers(measure, *results.rows)))
    return found


def _by_seed(measure: Measure, rows: Sequence[Found]) -> list[tuple[float, ...]]:
    return list(zip(*(row.figures[measure.name] for row in rows), strict=True))


def _counted(holds: Sequence[bool], what: str) -> str:
    """shows: in 3 of 3 seeds WHAT."""
    start = "shows" if all(holds) else "not settled" if any(holds) else "does not show"
    end = ", which settles nothing" if len(holds) == 1 else ""
    return f"{start}: in {sum(holds)} of {len(holds)} seeds {what}{end}"


def _share_gained(measure: Measure, four: float, sixteen: float, most: float) -> float | None:
    return (sixteen - four) / (most - four) if measure.better(most, four) else None


def _is_faster(results: Results) -> list[Finding]:
    fast = results.row("iterative3")
    rows = [results.row(key) for key in ("autoregressive", "autoregressive/uncached")]
    return [
        Finding(
            f"#3 with 16 iterations is faster than: {slow.label} (about 50 times in the paper)",
            _speed(fast.latency, slow.latency),
            ", ".join(f"{row.label} {seconds(row.latency)}" for row in (fast, slow) if row.latency),
        )
        for slow in rows
        if fast and fast.latency and slow and slow.latency
    ]


def _speed(fast: dict[str, Any], slow: dict[str, Any]) -> str:
    """The middle halves are compared: an image during which the machine did something else must not decide."""
    ratio = slow["median"] / fast["median"]
    if ratio <= 1:
        return f"does not show: {ratio:.2f} times as fast"
    apart = fast["upper"] < slow["lower"]
    return f"{'shows' if apart else 'not settled, the ranges overlap'}: {ratio:.1f} times as fast"


def seconds(latency: dict[str, Any]) -> str:
    """Median and the middle half: 0.95 s (0.94 to 0.97)."""
    return f"{latency['median']:.3g} s ({latency['lower']:.3g} to {latency['upper']:.3g})"
