"""Networks whose answers can be worked out by hand, a small real one, and their inputs.

Letters: V codes of the vocabulary, N image tokens, B images.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from emage.config import ModelConfig
from emage.methods import METHODS
from emage.methods.masking import MASK, ImageRng
from emage.model.transformer import Network

V, N, B = 11, 16, 3
ITERATIVE = ["iterative1", "iterative2", "iterative3"]
TINY = ModelConfig(width=32, depth=2, num_heads=2, text="clip_tiny", text_length=8)


class RecordingModel:
    """Returns the same logits (N,V) for every image, and remembers the tokens of each call in `shown`."""

    def __init__(self, logits: Tensor):
        self.logits, self.shown = logits, []

    def __call__(self, y: Tensor, context) -> Tensor:
        self.shown.append(y.clone())
        return self.logits.expand(len(y), *self.logits.shape)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class LimitedMemory:
    """Runs `work` on a device with memory for `room` rows; more raise PyTorch's out-of-memory error."""

    def __init__(self, work: Callable[[Tensor], Tensor], room: int, error: Exception = OUT_OF_MEMORY):
        self.work, self.room, self.error, self.calls = work, room, error, []

    def __call__(self, rows: Tensor) -> Tensor:
        self.calls.append(len(rows))
        if len(rows) > self.room:
            raise self.error
        return self.work(rows)


def certain_logits(tokens: list[int], vocab_size: int, sharpness: float = 50.0) -> Tensor:
    """Return logits (N,V) whose softmax is nearly 1 at `tokens`."""
    return sharpness * torch.nn.functional.one_hot(torch.tensor(tokens), vocab_size).float()


def all_masked(batch: int, n: int) -> Tensor:
    """Return (B,N) tokens of which none is known."""
    return torch.full((batch, n), MASK)


def tokens(batch: int = B, n: int = N) -> torch.Tensor:
    """Return (B,N) tokens, always the same ones."""
    return torch.randint(0, V, (batch, n), generator=torch.Generator().manual_seed(5))


def rngs(batch: int = B) -> ImageRng:
    """Return random generators of images, seeded 0, 1, ..."""
    return ImageRng(range(batch))


def network(name: str) -> Network:
    """Return an untrained network for a method, always with the same weights."""
    torch.manual_seed(0)
    return Network(TINY, V, (4, 4), causal=METHODS[name].CAUSAL)
