"""The spike guard: it skips training steps whose loss is not finite or rises suddenly (ours).

One bad batch or one broken GPU would otherwise ruin a run of weeks.
"""

import math

MEAN_STEPS = 50  # applied steps that the running mean covers, roughly


class SpikeGuard:
    """Remembers the loss and rejects a step whose loss is not finite or far above its running mean.

    It depends on the losses alone, so that every rank and every resumed run decides the same.

    Args:
        max_spike: Nats above the running mean from which a step is rejected (`optim.max_spike`).
        mean: Running mean of the loss, in nats per token.
        noted: Number of steps in the mean, at most MEAN_STEPS. `mean`, `noted` and `skipped` are keys of the
            checkpoint's manifest.
        skipped: Number of steps skipped so far.
    """

    def __init__(self, max_spike: float, mean: float = 0.0, noted: int = 0, skipped: int = 0):
        self.max_spike = max_spike
        self.mean, self.noted, self.skipped = mean, noted, skipped

    def accepts(self, loss: float) -> bool:
        """Return True if the step with this loss (nats per token, over all ranks) should be applied."""
        return math.isfinite(loss) and (self.noted == 0 or loss <= self.mean + self.max_spike)

    def record(self, loss: float, applied: bool) -> None:
        """Record a step: an applied one moves the mean, a skipped one is counted."""
        if applied:
            self.noted = min(self.noted + 1, MEAN_STEPS)
            self.mean += (loss - self.mean) / self.noted
        else:
            self.skipped += 1

    def state(self) -> dict[str, float | int]:
        """Return what a resumed run needs to decide the same: `SpikeGuard(max_spike, **state)`."""
        return {"mean": self.mean, "noted": self.noted, "skipped": self.skipped}
