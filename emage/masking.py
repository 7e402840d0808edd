"""An alias, for one release: what is here is in emage.methods.masking."""

import warnings

from emage.methods.masking import num_kept

__all__ = ["num_kept"]

warnings.warn("emage.masking is now emage.methods.masking", DeprecationWarning, stacklevel=2)
