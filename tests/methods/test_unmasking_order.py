"""The preview of an unfinished image: the nearest unmasked token at every position."""

import torch

from emage.methods.masking import MASK
from emage.methods.unmasking_order import nearest_unmasked


def test_the_nearest_unmasked_token_is_shown() -> None:
    y = torch.full((1, 16), MASK)  # 4 x 4
    y[0, 0], y[0, 15] = 3, 8
    assert nearest_unmasked(y).tolist() == [[3, 3, 3, 3, 3, 3, 3, 8, 3, 3, 8, 8, 3, 8, 8, 8]]


def test_a_far_token_is_not_near_in_a_long_row() -> None:
    """Squared distances of 211 positions in a row (a prime number has no other grid) are more than an int16 holds."""
    y = torch.full((1, 211), MASK)
    y[0, 0], y[0, 210] = 3, 8
    assert nearest_unmasked(y).tolist() == [[3] * 106 + [8] * 105]
    y[0, 210] = MASK
    assert nearest_unmasked(y).tolist() == [[3] * 211]
