"""The success rate over the last rows: worked out by hand."""

from emage.on_ray.ingest.download.success_rate import SuccessRate


def test_dns_is_named_first():
    rate = SuccessRate(size=10, least=0.5)
    for reason in [None] * 10 + ["http_404"] * 6 + ["dns_error"] * 2:
        rate.add(reason)
    assert rate.is_too_low
    assert "2 of 10 images arrived" in rate.explain()
    assert "2 failed with dns_error: the resolver" in rate.explain()
    rate.add(None)
    rate.add(None)
    assert not SuccessRate(size=10, least=0.5).is_too_low  # too few rows yet
