"""Attention in groups of positions, for emage/methods/parallel_autoregressive.py: content and queries in one pass.

Letters: B images, N image tokens, C content and M query positions of a pass, P content positions of earlier passes,
D width, H heads, K width of a head.

A pass takes two kinds of states through the same blocks. Content is a token and its position; a query is [MASK] and a
position whose token is wanted. Content attends to the content of its own group and of earlier groups. A query attends
to the content of earlier groups and to the queries of its own group. In training all groups are in one pass, and masks
say who attends to whom; in generation a pass has the content of one group and the queries of the next, and keys and
values of earlier content are cached.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


class GroupMasks(NamedTuple):
    """Who attends to whom, True for yes; None: everybody to all. They broadcast over heads."""

    content: Tensor | None  # (B,1,C,P+C)
    queries: Tensor | None  # (B,1,M,P+C+M)


class GroupCache:
    """Keys and values of the content of earlier passes: 2 L B P D numbers in L layers, in buffers of fixed size."""

    def __init__(self, shape: Sequence[int], like: Tensor):
        """Make an empty cache of the shape (L,B,H,P,K), P its capacity, with the device and precision of `like`."""
        self.keys, self.values = like.new_zeros(shape), like.new_zeros(shape)
        self.length = 0  # content positions so far
        self.valid: list[Tensor] = []  # (B,C) bool of each pass, if it has padding


def pass_masks(valid: Tensor | None, num_content: int, cache: GroupCache) -> GroupMasks:
    """Return the masks of the next pass; note in the cache which of its content is padding.

    Args:
        valid: (B,C+M) bool, False for padding; None: no pass of this cache has padding.
        num_content: C.
        cache: The cache, as it was before the pass.
    """
    if valid is None:
        return GroupMasks(None, None)
    cache.valid.append(valid[:, :num_content])
    return generation_masks(torch.cat(cache.valid, dim=1), valid[:, num_content:], num_content)


def training_masks(group: Tensor) -> GroupMasks:
    """Return the masks of a pass over all groups; `group` (B,N) is that of every position, in content and queries."""
    mine, other = group[:, None, :, None], group[:, None, None, :]
    return GroupMasks(other <= mine, torch.cat([other < mine, other == mine], dim=-1))


def generation_masks(content_valid: Tensor, query_valid: Tensor, num_content: int) -> GroupMasks:
    """Return the masks of a pass of which some positions are padding.

    Args:
        content_valid: (B,P+C) bool, False for padding, of this pass's content (the last C) and that of earlier ones.
        query_valid: (B,M) bool.
        num_content: C.
    """
    all_content, num_queries = content_valid.shape[1], query_valid.shape[1]
    # Padding attends to itself: a softmax over nothing is NaN, and a NaN spoils even those that do not attend to it.
    eye = torch.eye(all_content + num_queries, dtype=torch.bool, device=content_valid.device)
    content = content_valid[:, None, None] | eye[all_content - num_content : all_content, :all_content]
    valid = torch.cat([content_valid, query_valid], dim=1)
    return GroupMasks(content, valid[:, None, None] | eye[all_content:])


def run_blocks(
    blocks: nn.ModuleList,
    x: Tensor,
    keys_values: Sequence[tuple[Tensor, Tensor]],
    num_content: int,
    masks: GroupMasks,
    cache: GroupCache | None = None,
    recompute: bool = False,
) -> Tensor:
    """Return the states (B,C+M,D) of content and queries after all blocks; a cache then holds this pass's content too.

    With `recompute` blocks keep only their inputs, and run again in backward (gradient checkpointing).
    """
    for i, block in enumerate(blocks):
        stored = (cache.keys[i], cache.values[i], cache.length) if cache else None
        arguments = (block, x, keys_values[i], num_content, masks, stored)
        if recompute and torch.is_grad_enabled():
            x = cast(Tensor, checkpoint(_run_block, *arguments, use_reentrant=False, preserve_rng_state=False))
        else:
            x = _run_block(*arguments)
    if cache:
        cache.length += num_content
    return x


def _run_block(
    block,
    x: Tensor,
    keys_values: tuple[Tensor, Tensor],
    num_content: int,
    masks: GroupMasks,
    stored: tuple[Tensor, Tensor, int] | None,
) -> Tensor:
    attention = block.attention
    q, k, v = attention.split_heads(block.norm1(x))  # (B,H,C+M,K)
    if stored is not None:
        keys, values, past = stored
        end = past + x.shape[1]  # queries are written behind the content; the next pass overwrites them
        keys[:, :, past:end], values[:, :, past:end] = k, v
        k, v = keys[:, :, :end], values[:, :, :end]
    num_keys = k.shape[2] - (x.shape[1] - num_content)  # of content
    parts = [F.scaled_dot_product_attention(q[:, :, num_content:], k, v, attn_mask=masks.queries)]
    if num_content:
        content = F.scaled_dot_product_attention(
            q[:, :, :num_content], k[:, :, :num_keys], v[:, :, :num_keys], attn_mask=masks.content
        )
        parts.insert(0, content)
    x = x + attention.merge_heads(torch.cat(parts, dim=2))
    x = x + block.cross(block.norm2(x), keys_values)
    return x + block.mlp(block.norm3(x))
