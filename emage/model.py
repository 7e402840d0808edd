"""The network of Figures 1 and 2: text context (B,S,D_text) and image tokens (B,N) in, logits (B,N,V) out.

Letters: B pictures, N image tokens, S text positions, D width, H heads, K width of a head, V codes.
It knows nothing of masks, schedules or pixels; [MASK] is one more row of its input embedding.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emage.config import ModelConfig
from emage.masking import MASK
from emage.text import ENCODERS

# --- Blocks -----------------------------------------------------------------------------------------------------------


class Context(NamedTuple):
    """The text as the decoder reads it: keys and values of every layer, computed once a picture, not once a step."""

    keys_values: list[tuple[Tensor, Tensor]]  # per layer, (B,H,S,K) each

    def of(self, rows: Sequence[int]) -> "Context":
        """Of these captions, in this order; one may stand there many times."""
        return Context([(keys[rows], values[rows]) for keys, values in self.keys_values])  # type: ignore[index]


class Cache(NamedTuple):
    """Keys and values of the image tokens passed so far, for causal generation."""

    keys: Tensor  # (L,B,H,N,K)
    values: Tensor
    length: list[int]  # [tokens filled], shared by the layers


class SelfAttention(nn.Module):
    def __init__(self, width: int, num_heads: int, causal: bool):
        super().__init__()
        self.num_heads, self.causal = num_heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cached: tuple[Tensor, Tensor, int] | None = None) -> Tensor:
        q, k, v = (_split(part, self.num_heads) for part in self.qkv(x).chunk(3, dim=-1))  # (B,H,N,K)
        if cached is None:
            return self.proj(_join(F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)))
        keys, values, start = cached
        stop = start + x.shape[1]
        assert x.shape[1] == 1, "the cache takes one token at a time: a longer piece would need a mask"
        keys[:, :, start:stop], values[:, :, start:stop] = k, v
        return self.proj(_join(F.scaled_dot_product_attention(q, keys[:, :, :stop], values[:, :, :stop])))


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

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], cached=None) -> Tensor:
        x = x + self.attention(self.norm1(x), cached)
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
        self.tokens = nn.Embedding(vocab_size + 1, config.width)  # the last row is [MASK]; the head has none
        self.positions = Positions(config.positions, self.grid, config.width)
        self.blocks = nn.ModuleList(Block(config, text_width, causal) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, vocab_size)
        init_weights(self)

    def read(self, text: Tensor) -> Context:
        """Text states (B,S,D_text) -> what `forward` takes as its context."""
        return Context([block.cross.keys_values(text) for block in self.blocks])  # type: ignore[operator]

    def forward(self, y: Tensor, context: Context, cache: Cache | None = None) -> Tensor:
        """Tokens (B,N) int64, MASK where unknown -> logits (B,N,V). With a cache: the next token alone, N = 1."""
        start = cache.length[0] if cache else 0
        y = torch.where(y == MASK, self.vocab_size, y)
        x = self.tokens(y) + self.positions()[start : start + y.shape[1]]  # (B,N,D)
        for i, (block, keys_values) in enumerate(zip(self.blocks, context.keys_values, strict=True)):
            cached = (cache.keys[i], cache.values[i], start) if cache else None
            x = block(x, keys_values, cached)
        if cache:
            cache.length[0] += y.shape[1]
        return self.head(self.norm(x))

    def new_cache(self, batch: int, n: int) -> Cache:
        """An empty cache for `n` tokens of `batch` pictures, 2 L B N D numbers."""
        config, weight = self.config, self.head.weight
        head_width = config.width // config.num_heads
        keys = torch.zeros(
            config.depth, batch, config.num_heads, n, head_width, device=weight.device, dtype=weight.dtype
        )
        return Cache(keys, torch.zeros_like(keys), [0])


class Positions(nn.Module):
    """A vector for every place of the grid: row + column (axial), or one of its own (learned)."""

    def __init__(self, kind: str, grid: tuple[int, int], width: int):
        super().__init__()
        self.axial = kind == "axial"
        if self.axial:
            self.rows = nn.Parameter(torch.empty(grid[0], 1, width))
            self.columns = nn.Parameter(torch.empty(1, grid[1], width))
        else:
            self.places = nn.Parameter(torch.empty(grid[0] * grid[1], width))

    def forward(self) -> Tensor:
        return (self.rows + self.columns).flatten(0, 1) if self.axial else self.places  # (N,D)


class Network(nn.Module):
    """All that is trained: the text encoder and the decoder."""

    def __init__(self, config: ModelConfig, vocab_size: int, grid: Sequence[int], causal: bool):
        super().__init__()
        self.text = ENCODERS[config.text](config)
        self.decoder = Transformer(config, vocab_size, grid, self.text.width, causal)

    def read(self, ids: Tensor) -> Context:
        """Caption ids (B,S) -> the decoder's context."""
        return self.decoder.read(self.text(ids))


# --- Weights ----------------------------------------------------------------------------------------------------------


def init_weights(model: Transformer) -> None:
    """Everything the decoder starts from.

    | what                                   | how                                                   |
    | embeddings, positions                  | normal, std s = 0.02 x sqrt(768 / width)              |
    | linear weights                         | normal, std s                                         |
    | linear weights into the residual path  | normal, std s / sqrt(3 x depth): three adds a block   |
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
