"""Emage: text-to-image in parallel (Feng et al., Emage: Non-Autoregressive Text-to-Image Generation)."""

from typing import TYPE_CHECKING, Any

from emage.version import __version__

if TYPE_CHECKING:
    from emage.inference.pipeline import Emage

__all__ = ["Emage", "__version__"]


def __getattr__(name: str) -> Any:
    """`emage.Emage` is imported when it is asked for: torch and open_clip take seconds, and a config needs neither."""
    if name == "Emage":
        from emage.inference.pipeline import Emage

        return Emage
    raise AttributeError(f"module 'emage' has no attribute {name!r}")
