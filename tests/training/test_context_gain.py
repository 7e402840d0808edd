import pytest
import torch

from emage.data.token_table import Batch
from emage.training.context_gain import context_gain


class _Text:
    def tokenize(self, captions):
        return torch.zeros(len(captions), 1), torch.zeros(len(captions), dtype=torch.bool)


class _Decoder:
    """Predicts the true tokens if it was shown any of them (and `uses_context`), else wrong ones."""

    def __init__(self, y: torch.Tensor, uses_context: bool):
        self.y, self.uses_context = y, uses_context
        self.head = torch.nn.Linear(1, 1)

    def __call__(self, shown: torch.Tensor, context) -> torch.Tensor:
        is_correct = self.uses_context and (shown >= 0).any()
        return torch.nn.functional.one_hot(self.y if is_correct else (self.y + 1) % 5, 5).float()


@pytest.mark.parametrize("uses_context", [True, False])
def test_context_gain_tells_a_network_that_uses_its_context_from_one_that_ignores_it(uses_context: bool):
    y = torch.randint(0, 5, (4, 16))
    network = type(
        "Network", (), {"text": _Text(), "decoder": _Decoder(y, uses_context), "encode_text": lambda self, ids: None}
    )()
    probe = context_gain(network, Batch([0] * 4, [""] * 4, y, [1, 2, 3, 4]), rows=4)
    assert probe["context_gain"] == float(uses_context)
