"""Emage: text-to-image in parallel (Feng et al., Emage: Non-Autoregressive Text-to-Image Generation)."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emage.pipeline import Emage

__version__ = "0.1.0"
__all__ = ["Emage", "__version__"]


def __getattr__(name: str) -> Any:
    """`emage.Emage` is imported when it is asked for: torch and open_clip take seconds, and a config needs neither."""
    if name == "Emage":
        from emage.pipeline import Emage

        return Emage
    raise AttributeError(f"module 'emage' has no attribute {name!r}")
