"""Parallel autoregression: its groups, its loss, and its cached generation against a slow reference without a cache."""

import math

import pytest
import torch
from fakes import TINY, B, N, V, rngs, tokens
from torch import Tensor
from torch.nn import functional as F

from emage.config import ObjectiveConfig, SamplingConfig
from emage.methods import parallel_autoregressive as method
from emage.methods.masking import MASK, ImageRng, halton_rank, num_kept
from emage.methods.sampling import sample_tokens
from emage.model.transformer import Network

CAPTIONS = ["a red circle"] * B


@pytest.fixture(scope="module")
def net() -> Network:
    torch.manual_seed(0)
    return Network(TINY, V, (4, 4), causal=False).eval()


def encode_text(net: Network, batch: int = B):
    return net.encode_text(net.text.tokenize(["a red circle"] * batch)[0])


# --- A reference that shares no code with the method: one image, loops, no cache, whole attention rows ---


def reference_logits(net: Network, y: list[int], groups: list[list[int]], t: int, context) -> Tensor:
    """Return the logits (M,V) of group t of one image, from the tokens `y` (by position) of earlier groups."""
    decoder = net.decoder
    content = [i for group in groups[:t] for i in group]
    of = {i: g for g, group in enumerate(groups) for i in group}
    vectors = decoder.positions()
    states = [decoder.tokens.weight[y[i]] + vectors[i] for i in content]
    states += [decoder.tokens.weight[decoder.vocab_size] + vectors[i] for i in groups[t]]
    x = torch.stack(states)[None]  # (1,C+M,D)
    for block, (keys, values) in zip(decoder.blocks, context.keys_values, strict=True):
        heads, width = block.attention.num_heads, x.shape[2]
        q, k, v = block.attention.qkv(block.norm1(x)).chunk(3, dim=-1)
        rows = []
        for i in range(x.shape[1]):
            if i < len(content):
                seen = [j for j, other in enumerate(content) if of[other] <= of[content[i]]]
            else:
                seen = list(range(x.shape[1]))
            parts = []
            for h in range(heads):
                here = slice(h * width // heads, (h + 1) * width // heads)
                scores = (k[0, seen, here] @ q[0, i, here]) / math.sqrt(width // heads)
                parts.append(scores.softmax(0) @ v[0, seen, here])
            rows.append(torch.cat(parts))
        x = x + block.attention.proj(torch.stack(rows)[None])
        x = x + block.cross(block.norm2(x), (keys[:1], values[:1]))
        x = x + block.mlp(block.norm3(x))
    return decoder.head(decoder.norm(x[0, len(content) :]))


def reference_groups(given: list[int], settings: SamplingConfig) -> list[list[int]]:
    """Return the positions of each group, the given ones first."""
    rank = halton_rank(N).tolist()
    order = sorted((i for i in range(N) if i not in given), key=lambda i: rank[i])
    ends = [
        num_kept(t, settings.steps, len(order), settings.schedule) if order else 0 for t in range(1, settings.steps + 1)
    ]
    return [given, *(order[start:end] for start, end in zip([0, *ends], ends, strict=False))]


def reference_generate(net: Network, y: list[int], settings: SamplingConfig, seed: int) -> list[int]:
    given = [i for i in range(N) if y[i] != MASK]
    groups, u, context = reference_groups(given, settings), ImageRng([seed]).uniform(N)[0], encode_text(net, 1)
    for t in range(1, len(groups)):
        if not groups[t]:
            continue
        logits = reference_logits(net, y, groups, t, context)
        here = torch.tensor(groups[t])
        found = sample_tokens(logits[None], u[here][None], settings.temperature, settings.top_k, settings.top_p).tokens
        for i, token in zip(groups[t], found[0].tolist(), strict=True):
            y[i] = token
    return y


@pytest.mark.parametrize("settings", [SamplingConfig(steps=4), SamplingConfig(steps=6, schedule="linear", top_k=3)])
@pytest.mark.parametrize("num_given", [0, 1, 5, 15, 16])
@torch.no_grad()
def test_generation_agrees_with_the_reference_token_for_token(net: Network, num_given: int, settings: SamplingConfig):
    y = tokens()
    keep = torch.rand(B, N, generator=torch.Generator().manual_seed(num_given)).argsort(1).argsort(1) < num_given
    start = y.masked_fill(~keep, MASK)
    *_, last = method.generate(net.decoder, encode_text(net), start, settings, rngs())
    expected = [reference_generate(net, start[i].tolist(), settings, seed=i) for i in range(B)]
    assert last.y_obs.tolist() == expected


@pytest.mark.parametrize("order", ["halton", "random", "confidence"])
@torch.no_grad()
def test_new_images_without_padding_have_the_same_tokens(net: Network, order):
    settings, start = SamplingConfig(steps=5, order=order), torch.full((B, N), MASK)
    padded = method.generate(net.decoder, encode_text(net), start, settings, rngs())
    plain = method.generate_new(net.decoder, encode_text(net), start, settings, rngs())
    for one, other in zip(padded, plain, strict=True):
        assert torch.equal(one.y_obs, other.y_obs) and torch.equal(one.guess, other.guess)


@torch.no_grad()
def test_the_training_pass_gives_the_logits_of_every_generation_step(net: Network):
    y, settings = tokens(), SamplingConfig(steps=4)
    groups = reference_groups([], settings)[1:]
    group = torch.empty(N, dtype=torch.int64)
    for t, positions in enumerate(groups):
        group[positions] = t
    logits = net.decoder.grouped_logits(y, encode_text(net), group.expand(B, N))
    for t, positions in enumerate(groups):
        expected = reference_logits(net, y[0].tolist(), [[], *groups], t + 1, encode_text(net, 1))
        assert torch.allclose(logits[0, positions], expected, atol=1e-4)


def test_a_token_is_predicted_without_its_own_group_and_later_ones(net: Network):
    group = method.sample_groups(N, ObjectiveConfig(groups=(4,)), rngs())
    y = tokens()
    before = net.decoder.grouped_logits(y, encode_text(net), group)
    for t in range(4):
        changed = torch.where(group >= t, (y + 1) % V, y)
        after = net.decoder.grouped_logits(changed, encode_text(net), group)
        assert torch.allclose(before[group <= t], after[group <= t], atol=1e-5)
        if t < 3:
            assert not torch.allclose(before[group > t], after[group > t], atol=1e-3)


def test_the_likelihood_of_all_images_sums_to_one():
    """Of 3 tokens of 2 codes, in 2 groups, by a function whose logits depend on what is shown."""
    torch.manual_seed(0)
    table = torch.randn(27, 3, 2)

    def model(y: Tensor, context) -> Tensor:
        return table[((y + 1) * torch.tensor([9, 3, 1])).sum(1)]

    group = torch.tensor([[0, 1, 0]])
    total = 0.0
    for number in range(8):
        y = torch.tensor([[number >> 2 & 1, number >> 1 & 1, number & 1]])
        logits = method.grouped_logits(model, y, None, group)
        total += math.exp(-F.cross_entropy(logits[0], y[0], reduction="sum").item())
    assert total == pytest.approx(1.0, abs=1e-5)


# --- Groups in training ---


def test_groups_are_those_of_generation():
    settings = SamplingConfig(steps=5, schedule="cosine")
    group = method.sample_groups(N, ObjectiveConfig(groups=(5,), group_schedule="cosine"), rngs())
    assert [sorted((group[0] == t).nonzero().flatten().tolist()) for t in range(5)] == [
        sorted(positions) for positions in reference_groups([], settings)[1:]
    ]


def test_images_have_different_numbers_of_groups_and_none_depends_on_its_batch():
    objective = ObjectiveConfig(groups=(2, 4, 100))  # 100: each of the N tokens is a group
    group = method.sample_groups(N, objective, ImageRng(range(600)))
    numbers = (group.max(1).values + 1).tolist()
    assert {number: numbers.count(number) / 600 for number in set(numbers)} == {
        number: pytest.approx(1 / 3, abs=0.07) for number in (2, 4, N)
    }
    for number in (2, 4):
        alone = method.sample_groups(N, ObjectiveConfig(groups=(number,)), ImageRng([0]))
        assert torch.equal(group[numbers.index(number)], alone[0])
    assert torch.equal(method.sample_groups(N, objective, ImageRng([7])), group[7:8])


def test_given_positions_come_first_and_the_others_follow_the_schedule():
    rng = ImageRng(range(400))
    group = method.sample_groups(N, ObjectiveConfig(groups=(4,), given_share=0.5), rng)
    given = (group < 0).sum(1)
    with_given = given > 0
    assert with_given.float().mean().item() == pytest.approx(0.5 * 15 / 16, abs=0.07)  # u = 1 masks all
    assert set(given[with_given].tolist()) == set(range(1, N)), "1 to n - 1 given tokens, never all"
    for row in group[with_given][:20]:
        masked = int((row >= 0).sum())
        sizes = [int((row <= t).sum() - (row < 0).sum()) for t in range(4)]
        assert sizes == [num_kept(t, 4, masked, "cubic") for t in range(1, 5)]


def test_a_fraction_of_the_images_has_a_random_order():
    group = method.sample_groups(N, ObjectiveConfig(groups=(4,), random_order_share=0.25), ImageRng(range(400)))
    halton = method.sample_groups(N, ObjectiveConfig(groups=(4,)), ImageRng([0]))
    assert (group != halton).any(1).float().mean().item() == pytest.approx(0.25, abs=0.07)
