"""Which training steps are not taken: one bad batch, or one broken GPU, must not cost two weeks (beyond the paper)."""

import math

MEMORY = 50  # steps that the running mean looks back on, roughly


class SpikeGuard:
    """Remembers the loss and refuses a step whose loss is no number or lies far above what it was.

    It depends on the losses alone, so that every rank and every resumed run decides the same.
    """

    def __init__(self, max_spike: float, mean: float = 0.0, noted: int = 0, skipped: int = 0):
        self.max_spike = max_spike  # nats above the running mean
        self.mean, self.noted, self.skipped = mean, noted, skipped  # noted: steps in the mean, at most MEMORY

    def accepts(self, loss: float) -> bool:
        """Whether the step with this loss (nats a token, over all ranks) should be taken."""
        return math.isfinite(loss) and (self.noted == 0 or loss <= self.mean + self.max_spike)

    def note(self, loss: float, taken: bool) -> None:
        """After a step. One that was not taken counts, and leaves the mean as it was."""
        if taken:
            self.noted = min(self.noted + 1, MEMORY)
            self.mean += (loss - self.mean) / self.noted
        else:
            self.skipped += 1

    def state(self) -> dict[str, float | int]:
        """What a resumed run needs to decide the same: `SpikeGuard(max_spike, **state)`."""
        return {"mean": self.mean, "noted": self.noted, "skipped": self.skipped}
