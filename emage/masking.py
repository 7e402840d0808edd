"""Deprecated alias of emage.methods.masking, for one release."""

import warnings

from emage.methods.masking import num_kept

__all__ = ["num_kept"]

warnings.warn("emage.masking is now emage.methods.masking", DeprecationWarning, stacklevel=2)
