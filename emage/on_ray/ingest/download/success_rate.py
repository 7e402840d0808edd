"""The success rate of a download over its last rows: if it is too low, the stage stops early."""

from collections import Counter, deque

from emage.data.ingest.drop_reasons import explain

MIN_DNS_FRACTION = 0.2  # of the failures: then DNS is named as the problem, even if another reason is more frequent


class SuccessRate:
    """The drop reasons of the last rows, and the number of images among these rows."""

    def __init__(self, size: int, least: float):
        """Start without rows.

        Args:
            size: The number of rows that count; the rate is never too low before as many were added.
            least: Minimum fraction of images among them.
        """
        self.least = least
        self.last: deque[str | None] = deque(maxlen=size)
        self.reasons: Counter[str | None] = Counter()  # of the rows in `last`; None: an image

    def add(self, reason: str | None) -> None:
        """Add a row: its drop reason, or None for an image."""
        if len(self.last) == self.last.maxlen:
            self.reasons[self.last[0]] -= 1
        self.last.append(reason)
        self.reasons[reason] += 1

    @property
    def is_too_low(self) -> bool:
        """Return True if `size` rows were added and too few of the last ones are images."""
        return len(self.last) == self.last.maxlen and self.reasons[None] < self.least * len(self.last)

    def explain(self) -> str:
        """Return a sentence for the user, with the probable problem and advice."""
        reasons = +Counter({reason: count for reason, count in self.reasons.items() if reason is not None})
        reason, count = reasons.most_common(1)[0]
        if reasons["dns_error"] >= MIN_DNS_FRACTION * reasons.total():
            reason, count = "dns_error", reasons["dns_error"]
        explanation = explain("failed", reason)
        advice = "" if explanation.is_hopeless else f": {explanation.advice}"
        return (
            f"{self.reasons[None]} of {len(self.last)} images arrived, under download.min_success_rate={self.least}; "
            f"{count} failed with {reason}{advice}"
        )
