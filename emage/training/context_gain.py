"""The context gain: how much the network's accuracy gains from the image tokens that it is shown (ours).

    context_gain = accuracy(masked half | other half shown) - accuracy(masked half | nothing shown)

Near 0 the network predicts from the caption alone. The loss does not show it: iterative3 can converge there.
"""

import torch

from emage.data.token_table import Batch
from emage.methods.masking import MASK, ImageRng, random_mask
from emage.model.transformer import Network
from emage.training.step_metrics import Metrics


@torch.no_grad()
def context_gain(network: Network, batch: Batch, rows: int) -> Metrics:
    """Measure how much the visible half of true images raises the accuracy of the network.

    Args:
        network: In any mode; its weights stay as they are.
        batch: True images and their captions.
        rows: How many of them to use, at most; as many as fit into a micro-batch.

    Returns:
        context_gain, as above; visible_gain, the same for the half that is shown, which is meaningful for iterative3
        only, since the other methods are not trained on visible positions; accuracy_blind, over all positions with
        nothing shown.
    """
    device = network.decoder.head.weight.device
    y = batch.y[:rows].to(device)  # (B,N)
    n = y.shape[1]
    masked = random_mask(torch.full((len(y),), n // 2, device=device), n, ImageRng(batch.seeds[:rows], device))
    ids, _ = network.text.tokenize(batch.captions[:rows])
    text = network.encode_text(ids.to(device))
    correct_half = network.decoder(y.masked_fill(masked, MASK), text).argmax(-1) == y
    correct_blind = network.decoder(torch.full_like(y, MASK), text).argmax(-1) == y
    return {
        "context_gain": _accuracy(correct_half[masked]) - _accuracy(correct_blind[masked]),
        "visible_gain": _accuracy(correct_half[~masked]) - _accuracy(correct_blind[~masked]),
        "accuracy_blind": _accuracy(correct_blind),
    }


def _accuracy(correct: torch.Tensor) -> float:
    return correct.float().mean().item()
