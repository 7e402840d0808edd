import pytest
import torch

from emage.config import SamplingConfig
from emage.masking import PictureRng
from emage.sampling import draw, truncate


def test_tokens_are_drawn_with_the_models_probabilities():
    p = torch.tensor([0.5, 0.3, 0.2, 0.0])
    tokens, log_p = draw(p.log().expand(1, 20_000, 4), SamplingConfig(), PictureRng([1]))
    shares = torch.bincount(tokens.flatten(), minlength=4) / 20_000
    assert torch.allclose(shares, p, atol=0.02)
    assert torch.allclose(log_p, p.log()[tokens], atol=1e-5)


def test_temperature_zero_takes_the_argmax():
    logits = torch.randn(2, 9, 17, generator=torch.Generator().manual_seed(0))
    tokens, _ = draw(logits, SamplingConfig(temperature=0), PictureRng([0, 1]))
    assert torch.equal(tokens, logits.argmax(-1))


def test_the_log_probability_is_the_models_own_whatever_the_temperature():
    logits = torch.randn(1, 9, 17, generator=torch.Generator().manual_seed(0))
    tokens, log_p = draw(logits, SamplingConfig(temperature=0.3, top_k=2), PictureRng([0]))
    assert torch.allclose(log_p, logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0])


def test_top_k_keeps_exactly_k_even_among_equals():
    kept = torch.isfinite(truncate(torch.zeros(1, 1, 10), top_k=3, top_p=1.0))
    assert kept.sum() == 3


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[None, None]
    assert torch.isfinite(truncate(logits, 0, 0.6))[0, 0].tolist() == [True, True, False, False]
    assert torch.isfinite(truncate(logits, 0, 1e-6))[0, 0].tolist() == [True, False, False, False]


def shares(settings: SamplingConfig, p: torch.Tensor) -> torch.Tensor:
    tokens, _ = draw(p.log().expand(1, 20_000, len(p)), settings, PictureRng([1]))
    return torch.bincount(tokens.flatten(), minlength=len(p)) / 20_000


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(temperature: float):
    p = torch.tensor([0.6, 0.3, 0.1])
    wanted = p ** (1 / temperature)
    assert torch.allclose(shares(SamplingConfig(temperature=temperature), p), wanted / wanted.sum(), atol=0.02)


def test_drawing_keeps_to_the_best_k_and_to_the_nucleus():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    half = torch.tensor([0.5, 0.3, 0, 0]) / 0.8
    assert torch.allclose(shares(SamplingConfig(top_k=2), p), half, atol=0.02)
    assert torch.allclose(shares(SamplingConfig(top_p=0.6), p), half, atol=0.02)
