import pytest
import torch

from emage.methods.masking import ImageRng
from emage.methods.sampling import sample_tokens, truncate
from emage.utils.torch_compile import compiled


def numbers(n: int) -> torch.Tensor:
    return ImageRng([1]).uniform(n)


def test_tokens_are_sampled_with_the_models_probabilities():
    p = torch.tensor([0.5, 0.3, 0.2, 0.0])
    tokens, log_p, *_ = sample_tokens(p.log().expand(1, 20_000, 4), numbers(20_000))
    fractions = torch.bincount(tokens.flatten(), minlength=4) / 20_000
    assert torch.allclose(fractions, p, atol=0.02)
    assert torch.allclose(log_p, p.log()[tokens], atol=1e-5)


def test_temperature_zero_takes_the_argmax():
    logits = torch.randn(2, 9, 17, generator=torch.Generator().manual_seed(0))
    sampled = sample_tokens(logits, ImageRng([0, 1]).uniform(9), temperature=0)
    assert torch.equal(sampled.tokens, logits.argmax(-1)) and torch.equal(sampled.best, sampled.tokens)
    assert torch.equal(sampled.log_p, sampled.best_log_p)


def test_the_log_probability_is_the_models_own_whatever_the_temperature():
    logits = torch.randn(1, 9, 17, generator=torch.Generator().manual_seed(0))
    tokens, log_p, *_ = sample_tokens(logits, numbers(9), temperature=0.3, top_k=2)
    assert torch.allclose(log_p, logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0])


def test_top_k_keeps_exactly_k_even_among_equals():
    kept = torch.isfinite(truncate(torch.zeros(1, 1, 10), top_k=3, top_p=1.0))
    assert kept.sum() == 3


def test_top_p_keeps_the_smallest_set_that_reaches_p():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[None, None]
    assert torch.isfinite(truncate(logits, 0, 0.6))[0, 0].tolist() == [True, True, False, False]
    assert torch.isfinite(truncate(logits, 0, 1e-6))[0, 0].tolist() == [True, False, False, False]


def fractions(p: torch.Tensor, **settings) -> torch.Tensor:
    tokens = sample_tokens(p.log().expand(1, 20_000, len(p)), numbers(20_000), **settings).tokens
    return torch.bincount(tokens.flatten(), minlength=len(p)) / 20_000


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(temperature: float):
    p = torch.tensor([0.6, 0.3, 0.1])
    wanted = p ** (1 / temperature)
    assert torch.allclose(fractions(p, temperature=temperature), wanted / wanted.sum(), atol=0.02)


def test_sampling_stays_within_the_top_k_and_the_nucleus():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    half = torch.tensor([0.5, 0.3, 0, 0]) / 0.8
    assert torch.allclose(fractions(p, top_k=2), half, atol=0.02)
    assert torch.allclose(fractions(p, top_p=0.6), half, atol=0.02)


@pytest.mark.parametrize("vocab_size", [2, 7, 512, 1000, 8192])
def test_the_token_is_the_first_whose_cumulative_sum_reaches_the_number(vocab_size: int):
    p = torch.rand(1, 400, vocab_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p[..., 1:][p[..., 1:] < 0.4] = 0  # codes that must never be sampled
    u, exact = numbers(400), (p / p.sum(-1, keepdim=True)).cumsum(-1)
    sampled = sample_tokens(p.float().log(), u)
    wanted = torch.searchsorted(exact, u[..., None].double()).squeeze(-1)
    assert (p.gather(-1, sampled.tokens[..., None]) > 0).all()
    assert (
        sampled.tokens == wanted
    ).float().mean() > 0.97  # float32 sums: a number at a boundary may give the next code
    assert ((sampled.tokens - wanted).abs() <= 8).all()


def test_numbers_at_both_ends_give_codes_of_nonzero_probability():
    logits = torch.full((1, 2, 512), -torch.inf)
    logits[..., [37, 41, 300]] = 0.0
    assert sample_tokens(logits, torch.tensor([[2**-25, 1 - 2**-24]])).tokens.tolist() == [[37, 300]]


def test_the_best_token_and_its_probability_are_returned_too():
    logits = torch.randn(2, 9, 17, generator=torch.Generator().manual_seed(0))
    sampled = sample_tokens(logits, ImageRng([0, 1]).uniform(9), temperature=2.0, top_p=0.5)
    log_p, best = logits.log_softmax(-1).max(-1)
    assert torch.equal(sampled.best, best) and torch.allclose(sampled.best_log_p, log_p, atol=1e-6)


@pytest.mark.faults
def test_compiled_it_samples_the_same_tokens():
    logits = torch.randn(2, 50, 512, generator=torch.Generator().manual_seed(0))
    u = ImageRng([0, 1]).uniform(50)
    plain = sample_tokens(logits, u, 0.9)
    with compiled():
        other = sample_tokens(logits, u, 0.9)
    assert (plain.tokens == other.tokens).float().mean() > 0.98 and torch.equal(plain.best, other.best)
    assert torch.allclose(plain.best_log_p, other.best_log_p, atol=1e-5)
