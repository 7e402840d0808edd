"""The generators of the methods: which tokens they keep, revise, mask again and leave as they were given."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from fakes import ITERATIVE, B, N, RecordingModel, V, all_masked, certain_logits, network, rngs, tokens

from emage.config import SamplingConfig
from emage.inference.guidance import GuidedDecoder
from emage.methods import METHODS, iterative1, iterative3
from emage.methods.base import Step
from emage.methods.masking import MASK, ImageRng, num_kept


@pytest.mark.parametrize("order", ["confidence", "random", "halton"])
@pytest.mark.parametrize("name", ITERATIVE)
def test_each_step_keeps_exactly_as_many_as_the_schedule(name: str, order: str):
    model = RecordingModel(torch.zeros(N, V))  # all confidences are equal
    settings = SamplingConfig(steps=5, order=order)
    steps = list(METHODS[name].generate(model, None, all_masked(B, N), settings, ImageRng(range(B))))
    unmasked = [(step.y_obs != MASK).sum(1).tolist() for step in steps]
    assert unmasked == [[num_kept(t, 5, N)] * B for t in range(1, 6)]
    assert (steps[-1].y_obs >= 0).all() and (steps[-1].y_obs < V).all()


def test_iterative1_never_changes_a_kept_token_and_iterative3_never_masks_one():
    for name in ITERATIVE:
        model = RecordingModel(torch.zeros(N, V))
        settings = SamplingConfig(steps=6, gumbel=50.0)  # noise that would lift another token above 1.0
        steps = list(METHODS[name].generate(model, None, all_masked(B, N), settings, ImageRng(range(B))))
        for before, after in itertools.pairwise(steps):
            unmasked = before.y_obs != MASK
            assert (after.y_obs[unmasked] != MASK).all()
            if name != "iterative3":
                assert torch.equal(after.y_obs[unmasked], before.y_obs[unmasked])


def test_iterative3_revises_kept_tokens_with_its_present_prediction():
    calls: list[int] = []

    def changing(y, context):
        calls.append(1)
        return certain_logits([len(calls)] * N, V).expand(len(y), N, V)  # 1 in the first pass, 2 in the second

    first, last = iterative3.generate(changing, None, all_masked(1, N), SamplingConfig(steps=2), ImageRng([0]))
    assert set(first.y_obs.unique().tolist()) == {MASK, 1}
    assert set(last.y_obs.unique().tolist()) == {2}
    calls.clear()
    first, last = iterative1.generate(changing, None, all_masked(1, N), SamplingConfig(steps=2), ImageRng([0]))
    assert set(last.y_obs.unique().tolist()) == {1, 2}


def test_confidence_order_unmasks_the_most_confident_positions_first():
    logits = torch.zeros(N, V)
    logits[:, 0] = torch.arange(N).float()
    settings = SamplingConfig(steps=2, schedule="linear", gumbel=0, temperature=0)
    first, _ = iterative1.generate(RecordingModel(logits), None, all_masked(1, N), settings, ImageRng([0]))
    assert (first.y_obs[0] != MASK).nonzero().flatten().tolist() == list(range(N // 2, N))


@pytest.mark.parametrize("module", [iterative1, iterative3])
def test_position_noise_is_annealed_linearly_from_its_first_value(module, monkeypatch):
    noises: list[float] = []

    def noting(order, log_p, fixed, noise, rng):
        noises.append(noise)
        return log_p

    monkeypatch.setattr(module, "position_scores", noting)
    list(
        module.generate(
            RecordingModel(torch.zeros(N, V)), None, all_masked(1, N), SamplingConfig(steps=4, gumbel=4.0), rngs(1)
        )
    )
    assert noises == [3.0, 2.0, 1.0, 0.0]


def test_revision_samples_or_takes_the_argmax():
    logits = torch.zeros(N, V)
    logits[:, 5] = 1.0  # the best, and far from sure

    def revised(how: str) -> torch.Tensor:
        settings = SamplingConfig(steps=2, revise=how, order="halton")
        first, last = iterative3.generate(RecordingModel(logits), None, all_masked(50, N), settings, rngs(50))
        return last.y_obs[first.y_obs != MASK]

    assert (revised("argmax") == 5).all()
    p = math.e / (math.e + V - 1)
    assert (revised("sample") == 5).float().mean().item() == pytest.approx(p, abs=0.07)


@pytest.mark.parametrize("name", ITERATIVE)
def test_inpainting_scales_the_schedule_by_the_masked_positions_of_each_image(name: str):
    given = torch.tensor([0, N // 2, N - 1])
    start = torch.where(torch.arange(N) < given[:, None], tokens(), MASK)
    settings = SamplingConfig(steps=4)
    steps = list(METHODS[name].generate(RecordingModel(torch.zeros(N, V)), None, start, settings, ImageRng(range(B))))
    for t, step in enumerate(steps, start=1):
        fresh = [num_kept(t, 4, n) for n in (N - given).tolist()]
        assert (step.y_obs != MASK).sum(1).tolist() == (given + torch.tensor(fresh)).tolist()


def positions(step: Step) -> set[int]:
    return set((step.y_obs[0] != MASK).nonzero().flatten().tolist())


@pytest.mark.parametrize("name", ITERATIVE)
def test_remasking_masks_the_least_confident_again_and_follows_the_schedule(name: str):
    logits = torch.zeros(N, V)
    logits[:, 0] = torch.arange(N).float()  # later positions are more confident
    greedy = SamplingConfig(steps=4, schedule="linear", temperature=0, gumbel=0, remask=0.5)
    expected = {
        # Halton's order over 4 x 4 is 9 6 12 1 | 11 4 14 3 8 5 | 0 7 ...
        "halton": [{9, 6, 12, 1}, {9, 12, 11, 4, 14, 3, 8, 5}, {9, 12, 11, 14, 6, 1, 0, 7, 13, 2, 15, 10}],
        "confidence": [{15, 14, 13, 12}, {15, 14, 11, 10, 9, 8, 7, 6}, {15, 14, 11, 10, 13, 12, 5, 4, 3, 2, 1, 0}],
    }
    for order, unmasked in expected.items():
        settings = replace(greedy, order=order)
        steps = METHODS[name].generate(RecordingModel(logits), None, all_masked(1, N), settings, ImageRng([3]))
        assert [positions(step) for step in steps] == [*unmasked, set(range(N))]


def test_iterative3_scores_the_revised_token_not_a_sampled_one():
    logits = torch.zeros(N, V)
    logits[:, 0] = torch.arange(N).float()
    # At this temperature tokens are nearly uniform: at a confident position most of them are very improbable.
    settings = SamplingConfig(steps=4, schedule="linear", order="halton", temperature=100, gumbel=0, remask=0.5)
    first, second, *_ = iterative3.generate(RecordingModel(logits), None, all_masked(1, N), settings, ImageRng([3]))
    assert positions(first) - positions(second) == {1, 6}  # the least confident of 9, 6, 12, 1


@pytest.mark.parametrize("name", ITERATIVE)
def test_remasking_takes_no_more_than_stay_masked_anyway(name: str):
    logits = torch.zeros(N, V)
    logits[:, 0] = torch.arange(N).float()
    settings = SamplingConfig(steps=4, schedule="linear", order="halton", temperature=0, gumbel=0, remask=0.99)
    _, second, third, _ = METHODS[name].generate(
        RecordingModel(logits), None, all_masked(1, N), settings, ImageRng([3])
    )
    assert positions(second) - positions(third) == set(
        sorted(positions(second))[:4]
    )  # 7 of 8 by the fraction, at most 4


def test_iterative1_remasks_by_the_confidence_when_kept_and_iterative3_by_the_present_one():
    def confident_except_at(position: int) -> torch.Tensor:
        logits = certain_logits([1] * N, V)
        logits[position] /= 50
        return logits

    # The first pass keeps 9, 6, 12, 1 and is least confident at 9, the second at 1. One of the four is masked again.
    settings = SamplingConfig(steps=4, schedule="linear", order="halton", temperature=0, remask=0.25)
    for name, masked_again in (("iterative1", 9), ("iterative3", 1)):
        outputs = iter([confident_except_at(9), confident_except_at(1)])
        steps = METHODS[name].generate(
            lambda y, context, outputs=outputs: next(outputs)[None], None, all_masked(1, N), settings, ImageRng([0])
        )
        first, second = next(steps), next(steps)
        assert positions(first) - positions(second) == {masked_again}


@pytest.mark.parametrize("name", ITERATIVE)
def test_remasking_never_touches_what_was_given(name: str):
    y = tokens()
    start = y.masked_fill(torch.arange(N) % 2 == 0, MASK)
    settings = SamplingConfig(steps=4, remask=0.9)
    for step in METHODS[name].generate(RecordingModel(torch.zeros(N, V)), None, start, settings, ImageRng(range(B))):
        assert torch.equal(step.y_obs[start != MASK], y[start != MASK])


def test_cached_autoregressive_logits_equal_the_uncached_ones():
    net = network("autoregressive").eval()
    context = net.encode_text(net.text.tokenize(["a red circle"] * B)[0])
    y = tokens()
    with torch.no_grad():
        whole = net.decoder(y, context)
        cache = net.decoder.new_cache(B, N)
        parts = torch.cat([net.decoder(y[:, i : i + 1], context, cache) for i in range(N)], dim=1)
    assert torch.allclose(whole, parts, atol=1e-5)


class UncachedDecoder:
    """The same network without a cache: a forward pass over all tokens so far for every token."""

    def __init__(self, decoder):
        self.decoder = decoder

    def new_cache(self, batch: int, n: int) -> list:
        return []

    def __call__(self, last: torch.Tensor, context, cache: list) -> torch.Tensor:
        cache.append(last.clone())
        return self.decoder(torch.cat(cache, dim=1), context)[:, -1:]


@pytest.mark.parametrize("settings", [SamplingConfig(), SamplingConfig(temperature=0), SamplingConfig(top_k=3)])
def test_cached_tokens_equal_the_uncached_ones(settings: SamplingConfig):
    net = network("autoregressive").eval()
    context = net.encode_text(net.text.tokenize(["a red circle"] * B)[0])
    generate = METHODS["autoregressive"].generate
    *_, cached = generate(net.decoder, context, all_masked(B, N), settings, ImageRng(range(B)))
    *_, whole = generate(UncachedDecoder(net.decoder), context, all_masked(B, N), settings, ImageRng(range(B)))
    assert torch.equal(cached.y_obs, whole.y_obs)


def test_guided_cached_tokens_equal_the_uncached_ones():
    net = network("autoregressive").eval()
    caption, empty = (net.encode_text(net.text.tokenize([text] * B)[0]) for text in ("a red circle", ""))
    settings, generate = SamplingConfig(guidance=8.0), METHODS["autoregressive"].generate
    steps = [
        list(generate(GuidedDecoder(decoder, empty, settings, N), caption, all_masked(B, N), settings, rngs()))
        for decoder in (net.decoder, UncachedDecoder(net.decoder))
    ]
    assert torch.equal(steps[0][-1].y_obs, steps[1][-1].y_obs)
    assert (steps[0][0].y_obs == MASK).sum() == B * (N - 1)  # a step is not changed by later ones


def test_the_guess_of_the_autoregressive_method_is_the_known_tokens_and_token_0_elsewhere():
    net = network("autoregressive").eval()
    context = net.encode_text(net.text.tokenize(["a cup", ""])[0])
    y_obs = all_masked(2, N)
    y_obs[:, 5] = 7  # given
    for step in METHODS["autoregressive"].generate(net.decoder, context, y_obs, SamplingConfig(), rngs(2)):
        known = step.y_obs != MASK
        assert torch.equal(step.guess[known], step.y_obs[known])
        assert (step.guess[~known] == 0).all()
    zeros = ConstantDecoder(certain_logits([0], V))
    *_, last = METHODS["autoregressive"].generate(zeros, None, all_masked(1, 4), SamplingConfig(temperature=0), rngs(1))
    assert last.guess.tolist() == last.y_obs.tolist() == [[0, 0, 0, 0]]


class ConstantDecoder:
    """A network with a cache that always gives the same logits (1,V)."""

    def __init__(self, logits: torch.Tensor):
        self.logits = logits

    def new_cache(self, batch: int, n: int) -> None:
        return None

    def __call__(self, y: torch.Tensor, context, cache) -> torch.Tensor:
        return self.logits.expand(len(y), 1, V)
