import math

import pytest

from emage.training.spike_guard import MEAN_STEPS, SpikeGuard


def test_a_loss_that_is_not_finite_is_rejected_from_the_first_step():
    guard = SpikeGuard(max_spike=3.0)
    assert not guard.accepts(math.nan) and not guard.accepts(math.inf)
    assert guard.accepts(1e6)  # there is no mean yet


def test_a_spike_is_measured_from_the_running_mean():
    guard = SpikeGuard(max_spike=3.0)
    for loss in (9.0, 8.0, 4.0):
        guard.record(loss, applied=True)
    assert guard.mean == pytest.approx(7.0)
    assert guard.accepts(10.0) and not guard.accepts(10.001)


def test_the_mean_forgets_old_steps():
    guard = SpikeGuard(max_spike=3.0)
    for loss in [9.0] * MEAN_STEPS + [5.0] * MEAN_STEPS:
        guard.record(loss, applied=True)
    assert guard.mean == pytest.approx(5.0 + 4.0 * (1 - 1 / MEAN_STEPS) ** MEAN_STEPS)


def test_a_skipped_step_is_counted_and_does_not_move_the_mean():
    guard = SpikeGuard(max_spike=3.0)
    guard.record(5.0, applied=True)
    guard.record(math.nan, applied=False)
    guard.record(50.0, applied=False)
    assert guard.state() == {"mean": 5.0, "noted": 1, "skipped": 2}
    again = SpikeGuard(3.0, **guard.state())
    assert not again.accepts(8.1) and again.accepts(8.0) and again.skipped == 2
