"""An alias, for one release: see emage.data.ingest.captions.caption_rules, where `keep` is called `drop_reason`."""

import warnings

from emage.data.ingest.captions.caption_rules import drop_reason as keep
from emage.data.ingest.captions.caption_rules import normalise

__all__ = ["keep", "normalise"]

warnings.warn(
    "emage.captions is now emage.data.ingest.captions.caption_rules, keep is drop_reason",
    DeprecationWarning,
    stacklevel=2,
)
