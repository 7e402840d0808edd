import math

import pytest

from emage.training.spike_guard import MEMORY, SpikeGuard


def test_a_loss_that_is_no_number_is_refused_from_the_first_step():
    guard = SpikeGuard(max_spike=3.0)
    assert not guard.accepts(math.nan) and not guard.accepts(math.inf)
    assert guard.accepts(1e6)  # nothing is known yet


def test_a_spike_is_measured_from_the_running_mean():
    guard = SpikeGuard(max_spike=3.0)
    for loss in (9.0, 8.0, 4.0):
        guard.note(loss, taken=True)
    assert guard.mean == pytest.approx(7.0)
    assert guard.accepts(10.0) and not guard.accepts(10.001)


def test_the_mean_forgets():
    guard = SpikeGuard(max_spike=3.0)
    for loss in [9.0] * MEMORY + [5.0] * MEMORY:
        guard.note(loss, taken=True)
    assert guard.mean == pytest.approx(5.0 + 4.0 * (1 - 1 / MEMORY) ** MEMORY)


def test_what_is_skipped_is_counted_and_leaves_the_mean():
    guard = SpikeGuard(max_spike=3.0)
    guard.note(5.0, taken=True)
    guard.note(math.nan, taken=False)
    guard.note(50.0, taken=False)
    assert guard.state() == {"mean": 5.0, "noted": 1, "skipped": 2}
    again = SpikeGuard(3.0, **guard.state())
    assert not again.accepts(8.1) and again.accepts(8.0) and again.skipped == 2
