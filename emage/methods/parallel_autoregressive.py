"""Parallel autoregression in groups (ours): a group of tokens per step, each group from X and all earlier groups.

P(Y|X) = prod_t prod_{i in group t} p(y_i | X, y of groups < t). Learns from every context of an image at once, as the
autoregressive model does, and generates in a few steps, as the iterative ones do.

Letters: B images, N image tokens, T groups and decoding steps, M positions of a group, V codes.

Training:
    1. Put the positions in order (Halton, or at random) and split the order into T groups, T at random of a few
       numbers; given positions, in a fraction of the images, come before all groups (as in inpainting).
    2. One pass over 2N states predicts every token from X and the tokens of earlier groups: content states (a token)
       see groups up to their own, query states ([MASK]) see earlier groups and the queries of their own.
    3. Cross-entropy on all positions.

Inference (T decoding steps):
    1. Order and groups as in training; given tokens are the first content.
    2. For t = 1..T:
    3.   one pass over the content of group t-1, whose keys and values the cache then holds, and the queries of group t;
    4.   sample the tokens of group t; they never change again.

The tokens of a group are sampled independently, and the first groups decide what the image shows and where: with cosine
sizes their tokens contradict each other (half of an object here, half of it there). So sizes grow with the cube of the
step (`objective.group_schedule=cubic`): single tokens at first, large groups when little is undecided.

A pass has the states of two groups only: all T passes together cost about as much as one pass over 2N positions.
`order=confidence` does not exist here: which tokens come next is known before they are predicted; it means halton.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.methods.base import Loss, Step, all_scored, cross_entropy, logits_at
from emage.methods.masking import MASK, ImageRng, Rng, halton_rank, kept_table, max_kept_per_step, num_kept, top_k_mask
from emage.methods.sampling import sample_tokens, token_settings
from emage.methods.unmasking_order import fixed_scores, nearest_unmasked

CAUSAL = False
TWO_PASSES = False
PARTIAL_CONTEXT = False
TWO_STREAMS = True
num_scored = all_scored


def loss(model, y: Tensor, context, objective: ObjectiveConfig, rng: ImageRng, progress: float = 1.0) -> Loss:
    everywhere = torch.ones_like(y, dtype=torch.bool)
    group = sample_groups(y.shape[1], objective, rng)  # 1
    return cross_entropy(grouped_logits(model, y, context, group), y, masked=everywhere, scored=everywhere)  # 2, 3


def sample_groups(n: int, objective: ObjectiveConfig, rng: ImageRng) -> Tensor:
    """Return the group (B,N) of every position in training, 0..T-1, and -1 for given positions; T differs by image."""
    batch, device = len(rng), rng.device
    order = -halton_rank(n, device).float().expand(batch, n)  # scores: the highest come first
    masked = torch.full((batch,), n, device=device)
    if objective.random_order_share:
        is_random = rng.uniform(1) < objective.random_order_share
        order = torch.where(is_random, rng.uniform(n), order)
    if objective.given_share:
        u = rng.uniform(1)[:, 0] / objective.given_share  # uniform on (0, 1) in the images that have given tokens
        masked = torch.where(u < 1, (u * n).ceil().long().clamp(max=n), masked)
        order = order.masked_fill(top_k_mask(rng.uniform(n), n - masked), torch.inf)
    rank = order.argsort(dim=1, descending=True, stable=True).argsort(dim=1) - (n - masked)[:, None]  # < 0: given
    numbers = [min(number, n) for number in objective.groups]
    tables = torch.full((len(numbers), max(numbers), n + 1), n, device=device)
    for table, number in zip(tables, numbers, strict=True):
        table[:number] = kept_table(n, number, objective.group_schedule, device)
    number = (rng.uniform(1)[:, 0] * len(numbers)).long()
    kept = tables[number, :, masked]  # (B,T)
    return torch.where(rank < 0, -1, (rank[:, :, None] >= kept[:, None]).sum(-1))


def grouped_logits(model, y: Tensor, context, group: Tensor) -> Tensor:
    """Return the logits (B,N,V) of every token from earlier groups. A mere function is called once per group."""
    if hasattr(model, "grouped_logits"):
        return model.grouped_logits(y, context, group)
    logits = [model(y.masked_fill(group >= t, MASK), context) for t in range(-1, int(group.max()) + 1)]
    return torch.stack(logits).gather(0, (group + 1)[None, :, :, None].expand(1, *logits[0].shape))[0]


def num_steps(settings: SamplingConfig, n: int) -> int:
    return settings.steps


def max_random_numbers(settings: SamplingConfig, n: int) -> int:
    return 2 * n  # tokens, a random order


class Group(NamedTuple):
    """The positions of a decoding step. Where an image has fewer than others, the rest is padding: position N."""

    positions: Tensor  # (B,M)
    valid: Tensor | None  # (B,M) bool, False for padding; None: there is none


@torch.no_grad()
def generate(model, context, y_obs: Tensor, settings: SamplingConfig, rng: Rng) -> Iterator[Step]:
    """Generate a batch of which some tokens may be given: sizes of groups differ between images, and are padded."""
    n, masked = y_obs.shape[1], y_obs == MASK
    order = torch.nn.functional.pad(_order(y_obs, settings, rng), (0, n), value=n)  # (B,2N)
    kept = kept_table(n, settings.steps, settings.schedule, y_obs.device)[:, masked.sum(1)]  # (T,B)
    everywhere = torch.arange(n, device=y_obs.device).expand_as(y_obs)
    groups = [Group(everywhere.masked_fill(masked, n), ~masked)]
    for t, size in enumerate(max_kept_per_step(n, settings.steps, settings.schedule)):
        index = (kept[t - 1] if t else torch.zeros_like(kept[0]))[:, None] + everywhere[:, :size]
        valid = index < kept[t][:, None]
        groups.append(Group(order.gather(1, index).masked_fill(~valid, n), valid))
    yield from _decode(model, context, y_obs, groups, settings, rng)


@torch.no_grad()
def generate_new(model, context, y_obs: Tensor, settings: SamplingConfig, rng: Rng) -> Iterator[Step]:
    """Generate a batch of which no token is given: the same tokens as `generate`, without its padding."""
    n, order = y_obs.shape[1], _order(y_obs, settings, rng)
    ends = [num_kept(t, settings.steps, n, settings.schedule) for t in range(1, settings.steps + 1)]
    groups = [Group(order[:, start:end], None) for start, end in itertools.pairwise([0, 0, *ends])]
    yield from _decode(model, context, y_obs, groups, settings, rng)


def _order(y_obs: Tensor, settings: SamplingConfig, rng: Rng) -> Tensor:
    """Return the positions (B,N) in the order of generation, the given ones last."""
    scores = fixed_scores("random" if settings.order == "random" else "halton", y_obs.shape[1], rng)
    return scores.masked_fill(y_obs != MASK, -torch.inf).argsort(dim=1, descending=True, stable=True)


def _decode(model, context, y_obs: Tensor, groups: list[Group], settings: SamplingConfig, rng: Rng) -> Iterator[Step]:
    """Yield a Step per group but the first, which is given."""
    batch, n = y_obs.shape
    tokens = torch.cat([y_obs, torch.zeros_like(y_obs[:, :1])], dim=1)  # (B,N+1), the last for padding
    u = rng.uniform(n)
    sizes = [group.positions.shape[1] for group in groups]
    cache = model.new_group_cache(batch, sum(sizes)) if hasattr(model, "new_group_cache") else None  # 1
    for content, group in itertools.pairwise(groups):  # 2
        positions = torch.cat([content.positions, group.positions], dim=1).clamp(max=n - 1)  # (B,C+M)
        num_content, wanted = content.positions.shape[1], positions[:, content.positions.shape[1] :]
        if cache is None:
            logits = logits_at(model, tokens[:, :n], context, wanted)
        else:  # 3
            shown = torch.cat([tokens.gather(1, content.positions), torch.full_like(wanted, MASK)], dim=1)
            padded = content.valid is not None and group.valid is not None
            valid = torch.cat([content.valid, group.valid], dim=1) if padded else None  # type: ignore[list-item]
            logits = model.next_group(shown, positions, num_content, context, cache, valid)
        sampled = sample_tokens(logits, u.gather(1, wanted), *token_settings(settings))  # (B,M)
        tokens = tokens.scatter(1, group.positions, sampled.tokens)  # 4
        yield Step(tokens[:, :n].clone(), nearest_unmasked(tokens[:, :n]))
