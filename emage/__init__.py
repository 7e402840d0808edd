"""Emage: non-autoregressive text-to-image generation (Feng et al., arXiv:2312.14988)."""

from typing import TYPE_CHECKING, Any

from emage.version import __version__

if TYPE_CHECKING:
    from emage.inference.pipeline import Emage

__all__ = ["Emage", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `emage.Emage` at its first use: importing PyTorch takes seconds, and reading settings does not need it."""
    if name == "Emage":
        from emage.inference.pipeline import Emage

        return Emage
    raise AttributeError(f"module 'emage' has no attribute {name!r}")
