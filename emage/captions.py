"""An alias, for one release: what is here is in emage.data.ingest.caption_rules."""

import warnings

from emage.data.ingest.caption_rules import keep, normalise

__all__ = ["keep", "normalise"]

warnings.warn("emage.captions is now emage.data.ingest.caption_rules", DeprecationWarning, stacklevel=2)
