"""The network of Figures 1 and 2: text context (B,S,D_text) and image tokens (B,N) in, logits (B,N,V) out.

Letters: B images, N image tokens, S text positions, D width, H heads, K width of a head, V codes, M positions whose
logits are wanted, C positions of content (group_attention.py).
It does not depend on masking or pixels; [MASK] is one more row of its input embedding.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from emage.config import ModelConfig
from emage.methods.masking import MASK
from emage.model.group_attention import GroupCache, pass_masks, run_blocks, training_masks
from emage.model.kv_cache import KVCache, LayerCache
from emage.model.text import ENCODERS
from emage.utils.torch_compile import compilable

# --- Blocks -----------------------------------------------------------------------------------------------------------


class Context(NamedTuple):
    """The text as the decoder reads it: keys and values of every layer, computed once per image."""

    keys_values: list[tuple[Tensor, Tensor]]  # per layer, (B,H,S,K) each

    @property
    def tensors(self) -> list[Tensor]:
        """Return all keys and values as one flat list, of which `from_tensors` makes the context again."""
        return [tensor for pair in self.keys_values for tensor in pair]

    @classmethod
    def from_tensors(cls, tensors: Sequence[Tensor]) -> "Context":
        return cls(list(zip(tensors[::2], tensors[1::2], strict=True)))

    def select(self, rows: Sequence[int]) -> "Context":
        """Return the context of these captions, in this order; a caption may occur several times."""
        keys, _ = self.keys_values[0]
        if list(rows) == list(range(len(keys))):
            return self
        index = torch.tensor(rows, device=keys.device)
        return Context([(keys[index], values[index]) for keys, values in self.keys_values])


class SelfAttention(nn.Module):
    def __init__(self, width: int, num_heads: int, causal: bool):
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cache: LayerCache | None = None) -> Tensor:
        q, k, v = self.split_heads(x)
        if cache is None:
            return self.merge_heads(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal))
        assert x.shape[1] == 1, "the cache takes one token at a time: a longer piece would need another mask"
        cache.put(k, v)
        # For a single query plain products are faster: the fused kernels loop over the positions.
        scores = (q / math.sqrt(q.shape[3])) @ cache.keys.transpose(2, 3)  # (B,H,1,N)
        p = scores.float().masked_fill(~cache.seen, -torch.inf).softmax(-1).to(v.dtype)
        return self.merge_heads(p @ cache.values)

    def split_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the queries, keys and values, (B,H,N,K) each, of the states (B,N,D)."""
        q, k, v = (_split(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))
        return q, k, v

    def merge_heads(self, x: Tensor) -> Tensor:
        """Return the output (B,N,D) of what the heads (B,H,N,K) found."""
        return self.proj(_join(x))


class CrossAttention(nn.Module):
    def __init__(self, width: int, text_width: int, num_heads: int):
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(text_width, 2 * width)
        self.proj = nn.Linear(width, width)

    def keys_values(self, text: Tensor) -> tuple[Tensor, Tensor]:
        k, v = self.kv(text).chunk(2, dim=-1)
        return _split(k, self.num_heads), _split(v, self.num_heads)  # (B,H,S,K)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor]) -> Tensor:
        q = _split(self.q(x), self.num_heads)
        return self.proj(_join(F.scaled_dot_product_attention(q, *keys_values)))


class MLP(nn.Module):
    """GEGLU or GELU, `ratio` times as wide inside."""

    def __init__(self, width: int, ratio: float, kind: str):
        super().__init__()
        hidden = int(width * ratio)
        self.gated = kind == "geglu"
        self.up = nn.Linear(width, 2 * hidden if self.gated else hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(x)
        if self.gated:
            x, gate = x.chunk(2, dim=-1)
            return self.down(x * F.gelu(gate))
        return self.down(F.gelu(x))


class Block(nn.Module):
    def __init__(self, config: ModelConfig, text_width: int, causal: bool):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config.width, config.num_heads, causal)
        self.norm2 = nn.LayerNorm(config.width)
        self.cross = CrossAttention(config.width, text_width, config.num_heads)
        self.norm3 = nn.LayerNorm(config.width)
        self.mlp = MLP(config.width, config.mlp_ratio, config.mlp)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], cache: LayerCache | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), cache)
        x = x + self.cross(self.norm2(x), keys_values)
        return x + self.mlp(self.norm3(x))


# --- The network -----------------------------------------------------------------------------------------------------


class Transformer(nn.Module):
    """Image tokens and text to logits. Bidirectional, or `causal` for the autoregressive baseline."""

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int = 8192,
        grid: Sequence[int] = (32, 32),
        text_width: int = 768,
        causal: bool = False,
    ):
        super().__init__()
        if config.width % config.num_heads:
            raise ValueError(f"model.width {config.width} is not a multiple of model.num_heads {config.num_heads}")
        self.config, self.vocab_size = config, vocab_size
        self.grid = (int(grid[0]), int(grid[1]))
        self.recompute = False  # gradient checkpointing: blocks keep only their inputs and run again in backward
        self.tokens = nn.Embedding(vocab_size + 1, config.width)  # the last row is [MASK]; the head has none
        self.positions = Positions(config.positions, self.grid, config.width)
        self.blocks = nn.ModuleList(Block(config, text_width, causal) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, vocab_size)
        init_weights(self)

    def make_context(self, text: Tensor) -> Context:
        """Return the context of text states (B,S,D_text)."""
        return Context([block.cross.keys_values(text) for block in self.blocks])  # type: ignore[operator]

    def forward(self, y: Tensor, context: Context, cache: KVCache | None = None) -> Tensor:
        """Return the logits (B,N,V) of tokens (B,N) int64, MASK where masked. With a cache: of one token, N = 1."""
        layers = cache.layers if cache else None
        states = self._states(y, context.keys_values, layers)
        if cache:
            cache.advance()
        return self.head(states)

    def logits_at(self, y: Tensor, context: Context, positions: Tensor) -> Tensor:
        """Return the logits (B,M,V) at the positions (B,M) int64 only."""
        x = self._states(y, context.keys_values)
        return self.head(x.gather(1, positions[..., None].expand(*positions.shape, x.shape[2])))

    def grouped_logits(self, y: Tensor, context: Context, group: Tensor) -> Tensor:
        """Return the logits (B,N,V) of every token from the tokens of earlier groups: all groups in one pass.

        Args:
            y: The tokens (B,N), none masked.
            context: From `make_context`.
            group: (B,N) int, the group of every position; group_attention.py explains them.
        """
        return self.head(self._grouped_states(y, context.keys_values, group)[:, y.shape[1] :])

    @compilable
    def _grouped_states(self, y: Tensor, keys_values: Sequence[tuple[Tensor, Tensor]], group: Tensor) -> Tensor:
        content, queries = self.tokens(y), self.tokens.weight[self.vocab_size].expand(*y.shape, -1)
        x = torch.cat([content, queries], dim=1) + self.positions().repeat(2, 1)  # (B,2N,D)
        masks = training_masks(group)
        return self.norm(run_blocks(self.blocks, x, keys_values, y.shape[1], masks, recompute=self.recompute))

    def next_group(
        self, tokens: Tensor, positions: Tensor, num_content: int, context: Context, cache: GroupCache, valid=None
    ) -> Tensor:
        """Return the logits (B,M,V) of the queries; write keys and values of the content into the cache.

        Args:
            tokens: (B,C+M), C of content, then MASK for M queries.
            positions: (B,C+M), where they are.
            num_content: C.
            context: From `make_context`.
            cache: From `new_group_cache`; it holds the content of earlier passes.
            valid: (B,C+M) bool tensor, False for padding; None: no pass has padding.
        """
        x = self.tokens(torch.where(tokens == MASK, self.vocab_size, tokens)) + self.positions()[positions]
        masks = pass_masks(valid, num_content, cache)
        x = run_blocks(self.blocks, x, context.keys_values, num_content, masks, cache)
        return self.head(self.norm(x[:, num_content:]))

    @compilable
    def _states(
        self, y: Tensor, keys_values: Sequence[tuple[Tensor, Tensor]], layers: Sequence[LayerCache] | None = None
    ) -> Tensor:
        """Return the states (B,N,D) before the head."""
        y = torch.where(y == MASK, self.vocab_size, y)
        vectors = self.positions()
        x = self.tokens(y) + (vectors.index_select(0, layers[0].position) if layers else vectors[: y.shape[1]])
        for i, block in enumerate(self.blocks):
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, keys_values[i], use_reentrant=False, preserve_rng_state=False)
            else:
                x = block(x, keys_values[i], layers[i] if layers else None)
        return self.norm(x)

    def new_cache(self, batch: int, n: int) -> KVCache:
        """Return an empty cache for `n` tokens of `batch` images."""
        return KVCache(self._cache_shape(batch, n), like=self.head.weight)

    def new_group_cache(self, batch: int, capacity: int) -> GroupCache:
        """Return an empty cache for `next_group`: `capacity` positions of content and the queries of one pass."""
        return GroupCache(self._cache_shape(batch, capacity), like=self.head.weight)

    def _cache_shape(self, batch: int, n: int) -> tuple[int, ...]:
        heads = self.config.num_heads
        return self.config.depth, batch, heads, n, self.config.width // heads


class Positions(nn.Module):
    """A vector for every position of the grid: row + column (axial), or one per position (learned)."""

    def __init__(self, kind: str, grid: tuple[int, int], width: int):
        super().__init__()
        self.axial = kind == "axial"
        if self.axial:
            self.rows = nn.Parameter(torch.empty(grid[0], 1, width))
            self.columns = nn.Parameter(torch.empty(1, grid[1], width))
        else:
            self.places = nn.Parameter(torch.empty(grid[0] * grid[1], width))  # the name is a key of checkpoints

    def forward(self) -> Tensor:
        return (self.rows + self.columns).flatten(0, 1) if self.axial else self.places  # (N,D)


class Network(nn.Module):
    """The trained network: text encoder and decoder."""

    def __init__(self, config: ModelConfig, vocab_size: int, grid: Sequence[int], causal: bool):
        super().__init__()
        self.text = ENCODERS[config.text](config)
        self.decoder = Transformer(config, vocab_size, grid, self.text.width, causal)

    def encode_text(self, ids: Tensor) -> Context:
        """Return the decoder's context of caption ids (B,S)."""
        return self.decoder.make_context(self.text(ids))


# --- Weights ----------------------------------------------------------------------------------------------------------


def init_weights(model: Transformer) -> None:
    """Set the decoder's initial weights.

    | what                                   | how                                                   |
    | embeddings, positions                  | normal, std s = 0.02 x sqrt(768 / width)              |
    | linear weights                         | normal, std s                                         |
    | linear weights into the residual path  | normal, std s / sqrt(3 x depth): 3 adds per block     |
    | biases                                 | 0                                                     |
    | LayerNorm                              | 1 and 0 (PyTorch's own)                               |

    s is the customary 0.02 at the paper's width; narrower layers need more, or they start out nearly linear and slow.
    """
    std = 0.02 * math.sqrt(768 / model.config.width)
    residual = std / math.sqrt(3 * model.config.depth)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            into_residual = name.endswith(("attention.proj", "cross.proj", "mlp.down"))
            nn.init.normal_(module.weight, std=residual if into_residual else std)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=std)
    for parameter in model.positions.parameters():
        nn.init.normal_(parameter, std=std)


def _split(x: Tensor, num_heads: int) -> Tensor:
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)  # (B,N,D) -> (B,H,N,K)


def _join(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)  # (B,H,N,K) -> (B,N,D)
