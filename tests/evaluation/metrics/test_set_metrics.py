"""Metrics of two sets of features: batches in any order, values computed by hand, sets that are too small."""

from collections.abc import Iterable
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from emage.evaluation.metrics import frechet, set_metrics
from emage.evaluation.metrics.frechet import Moments
from emage.utils.errors import InputError

INCEPTION, TOKENIZER = SimpleNamespace(name="inception"), SimpleNamespace(name="tokenizer")


def vectors(n: int, seed: int, width: int = 24) -> torch.Tensor:
    """Correlated, far from 0 (n, width) float32."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=rng) @ torch.randn(width, width, generator=rng) + 30


def total_of(parts: Iterable[Moments]) -> Moments:
    moments = Moments.empty(24)
    for part in parts:
        moments.merge(part)
    return moments


def test_uneven_batches_in_any_order_give_the_distance_of_the_whole_set():
    generated, real = vectors(403, seed=0), vectors(300, seed=1)
    whole = set_metrics.compare(["fid"], generated, real, INCEPTION)["fid"]
    parts = [Moments.of(part) for part in generated.split([1, 200, 2, 150, 50])]
    reference = Moments.of(real)
    for order in permutations(parts):
        assert frechet.distance(total_of(order), reference) == pytest.approx(whole, rel=1e-6)
    assert [part.n for part in parts] == [1, 200, 2, 150, 50]  # adding up leaves them as they were


def test_an_empty_batch_changes_nothing():
    x = vectors(50, seed=0)
    total = total_of([Moments.empty(24), Moments.of(x), Moments.of(x[:0])])
    torch.testing.assert_close(total.covariance, Moments.of(x).covariance)


def mmd2(x: np.ndarray, y: np.ndarray) -> float:
    """Binkowski et al. 2018, eq. 4, with k(a, b) = (a.b / D + 1)^3."""

    def k(a, b):
        return (a @ b.T / a.shape[1] + 1) ** 3

    n = len(x)
    same = sum((k(z, z).sum() - np.trace(k(z, z))) / (n * (n - 1)) for z in (x, y))
    return same - 2 * k(x, y).mean()


def test_kid_of_small_sets_is_the_estimate_over_all_of_them():
    x, y = vectors(40, seed=0), vectors(40, seed=1)
    found = set_metrics.kid(x, y)
    assert found["kid"] == pytest.approx(mmd2(x.double().numpy(), y.double().numpy()), rel=1e-9)
    assert found["kid_std"] == pytest.approx(0, abs=1e-6 * abs(found["kid"]))


def test_kid_samples_with_a_fixed_seed(monkeypatch):
    monkeypatch.setattr(set_metrics, "KID_SUBSET_SIZE", 20)
    x, y = vectors(40, seed=0), vectors(60, seed=1)
    found = set_metrics.kid(x, y)
    assert found == set_metrics.kid(x, y) and found["kid_std"] > 0


def test_precision_and_recall_by_hand():
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0], [4.0]])  # third neighbours at 3, 2, 2, 2, 3
    generated = torch.tensor([[1.5], [2.5], [8.0], [9.0], [10.0]])  # third neighbours at 7.5, 6.5, 5.5, 6.5, 7.5
    found = set_metrics.precision_recall(generated, real)
    assert found["precision"] == pytest.approx(2 / 5) and found["recall"] == 1
    assert set_metrics.precision_recall(real, generated) == {"precision": 1, "recall": pytest.approx(2 / 5)}


def test_names_depend_on_the_features():
    x, y = vectors(30, seed=0), vectors(20, seed=1)
    asked = ["fid", "kid", "precision_recall"]
    ours, theirs = set_metrics.compare(asked, x, y, TOKENIZER), set_metrics.compare(asked, x, y, INCEPTION)
    assert list(theirs) == ["fid", "kid", "kid_std", "precision", "recall"]
    assert list(ours) == [
        "frechet_tokenizer",
        "kid_tokenizer",
        "kid_std_tokenizer",
        "precision_tokenizer",
        "recall_tokenizer",
    ]
    assert list(ours.values()) == list(theirs.values())
    assert list(set_metrics.compare(["kid"], x, y, INCEPTION)) == ["kid", "kid_std"]


def test_two_images_are_enough_and_one_is_not():
    x, y = vectors(2, seed=0), vectors(9, seed=1)
    figures = set_metrics.compare(list(set_metrics.SET_METRICS), x, y, INCEPTION)
    assert np.isfinite(list(figures.values())).all()
    with pytest.raises(InputError, match="fid, kid: two generated images or more are needed, not 1"):
        set_metrics.compare(["fid", "kid"], x[:1], y, INCEPTION)
    with pytest.raises(InputError, match="two reference images or more are needed, not 0"):
        set_metrics.compare(["fid"], x, y[:0], INCEPTION)
