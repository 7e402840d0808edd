"""The Frechet distance, by formula and compared with torch-fidelity's; moments of batches merge to those of all."""

import math

import numpy as np
import pytest
import torch

from emage.evaluation.metrics import frechet
from emage.evaluation.metrics.frechet import Moments


def gaussian(mean: list[float], covariance: list[list[float]], n: int = 5) -> Moments:
    s = torch.tensor(covariance, dtype=torch.float64)
    return Moments(n, torch.tensor(mean, dtype=torch.float64), s * (n - 1))


def features(n: int, seed: int, width: int = 16) -> torch.Tensor:
    """Return (n, width) float32, correlated and far from 0, so that sums of squares would lose digits."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=rng) @ torch.randn(width, width, generator=rng) + 1_000


def moments(x: torch.Tensor) -> Moments:
    result = Moments.empty(x.shape[1])
    result.update(x)
    return result


def test_distance_of_independent_features():
    a = gaussian([0, 0], [[4, 0], [0, 9]])
    b = gaussian([3, 4], [[1, 0], [0, 16]])
    assert frechet.distance(a, b) == pytest.approx(5**2 + (2 - 1) ** 2 + (3 - 4) ** 2)


def test_distance_of_covariances_that_do_not_commute():
    a = gaussian([0, 0], [[2, 1], [1, 2]])
    b = gaussian([0, 0], [[1, 0], [0, 4]])
    # Of 2 x 2 matrices tr(M^1/2) = sqrt(tr M + 2 sqrt(det M)), and M = S_a S_b has the trace 10, the determinant 12.
    expected = 4 + 5 - 2 * math.sqrt(10 + 2 * math.sqrt(12))
    assert frechet.distance(a, b) == pytest.approx(expected, rel=1e-12)
    assert frechet.distance(b, a) == pytest.approx(expected, rel=1e-12)


def test_distance_to_itself_is_zero():
    x = moments(features(200, seed=0))
    assert frechet.distance(x, x) == pytest.approx(0, abs=1e-8)


def test_a_singular_covariance_has_a_distance():
    few, many = moments(features(3, seed=0)), moments(features(100, seed=1))
    assert math.isfinite(frechet.distance(few, many)) and frechet.distance(few, few) == pytest.approx(0, abs=1e-4)


def test_moments_are_numpys():
    x = features(300, seed=0)
    found = moments(x)
    assert found.n == 300
    np.testing.assert_allclose(found.mean, x.double().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.double().numpy(), rowvar=False), rtol=1e-9)


def test_batches_merge_to_the_moments_of_the_whole_set():
    x = features(300, seed=0)
    whole, merged = moments(x), Moments.empty(16)
    for part in (x[:1], x[1:120], x[120:]):  # as of three workers, each of two batches
        worker = moments(part[:50])
        worker.update(part[50:])
        merged.merge(worker)
    assert merged.n == whole.n
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-10, atol=0)
    torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-10, atol=1e-10 * float(whole.scatter.max()))


def test_empty_moments_merge_to_empty_moments():
    none = Moments.empty(2)
    none.merge(Moments.empty(2))
    assert none.n == 0 and none.mean.tolist() == [0, 0]


def test_one_image_has_no_covariance():
    with pytest.raises(ValueError, match="two vectors or more, not 1"):
        frechet.distance(moments(features(1, seed=0)), moments(features(9, seed=1)))


def test_equals_torch_fidelity():
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    a, b = features(500, seed=0, width=64), features(400, seed=1, width=64)
    theirs = fid_statistics_to_metric(
        fid_features_to_statistics(a.double()), fid_features_to_statistics(b.double()), verbose=False
    )
    assert frechet.distance(moments(a), moments(b)) == pytest.approx(theirs[KEY_METRIC_FID], rel=1e-9)
