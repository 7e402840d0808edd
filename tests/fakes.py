"""Networks whose answers can be worked out by hand, a small real one, and what they are shown."""

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


class Recorder:
    """Returns the same logits (N,V) for every image and remembers what it was shown."""

    def __init__(self, logits: Tensor):
        self.logits, self.shown = logits, []

    def __call__(self, y: Tensor, context) -> Tensor:
        self.shown.append(y.clone())
        return self.logits.expand(len(y), *self.logits.shape)


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


class Cramped:
    """`work` on a device with room for `room` rows; asked for more it says what PyTorch says."""

    def __init__(self, work: Callable[[Tensor], Tensor], room: int, error: Exception = OUT_OF_MEMORY):
        self.work, self.room, self.error, self.calls = work, room, error, []

    def __call__(self, rows: Tensor) -> Tensor:
        self.calls.append(len(rows))
        if len(rows) > self.room:
            raise self.error
        return self.work(rows)


def certain(tokens: list[int], vocab_size: int, sharpness: float = 50.0) -> Tensor:
    """Logits (N,V) that leave no doubt about `tokens`."""
    return sharpness * torch.nn.functional.one_hot(torch.tensor(tokens), vocab_size).float()


def unknown(batch: int, n: int) -> Tensor:
    return torch.full((batch, n), MASK)


def tokens(batch: int = B, n: int = N) -> torch.Tensor:
    return torch.randint(0, V, (batch, n), generator=torch.Generator().manual_seed(5))


def rngs(batch: int = B) -> ImageRng:
    return ImageRng(range(batch))


def network(name: str) -> Network:
    torch.manual_seed(0)
    return Network(TINY, V, (4, 4), causal=METHODS[name].CAUSAL)
