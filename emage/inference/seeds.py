"""Seeds of images and of their candidates."""

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np

from emage.utils.errors import InputError


def check_seeds(seed: Any, num_images: int) -> list[int]:
    """Return one seed per image.

    Args:
        seed: One whole number from 0 to 2^63 - 1 for all images, or a sequence with one per image.
        num_images: Number of images.

    Raises:
        InputError: If a seed is not such a number, or the number of seeds is not `num_images`.
    """
    seeds = list(seed) if isinstance(seed, Iterable) else [seed] * num_images
    if len(seeds) != num_images:
        raise InputError(f"{len(seeds)} seeds for {num_images} prompts: pass one seed, or one per prompt")
    for value in seeds:
        if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < 2**63:
            raise InputError(f"seed must be a whole number from 0 to 2^63 - 1, not {value!r}")
    return [int(value) for value in seeds]


def candidate_seed(seed: int, candidate: int) -> int:
    """Return the seed of an image's candidate, counted from 0. Candidate 0 has the image's own seed."""
    if candidate == 0:
        return seed
    return int(np.random.SeedSequence([seed, candidate]).generate_state(1, np.uint64)[0] >> 1)
