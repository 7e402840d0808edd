import pytest
import torch

from emage.training.optimizer import make_ema


def test_ema_weights_by_hand():
    layer = torch.nn.Linear(1, 1, bias=False)
    average = make_ema(layer, decay=0.25)
    expected = 0.0
    for n, value in enumerate([1.0, 2.0, 4.0, 8.0]):
        torch.nn.init.constant_(layer.weight, value)
        average.update_parameters(layer)
        decay = min(0.25, (1 + n) / (10 + n))
        expected = value if n == 0 else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)
