"""Networks whose answers can be worked out by hand."""

import torch
from torch import Tensor

from emage.masking import MASK


class Recorder:
    """Returns the same logits (N,V) for every picture and remembers what it was shown."""

    def __init__(self, logits: Tensor):
        self.logits, self.shown = logits, []

    def __call__(self, y: Tensor, context) -> Tensor:
        self.shown.append(y.clone())
        return self.logits.expand(len(y), *self.logits.shape)


def certain(tokens: list[int], vocab_size: int, sharpness: float = 50.0) -> Tensor:
    """Logits (N,V) that leave no doubt about `tokens`."""
    return sharpness * torch.nn.functional.one_hot(torch.tensor(tokens), vocab_size).float()


def unknown(batch: int, n: int) -> Tensor:
    return torch.full((batch, n), MASK)
