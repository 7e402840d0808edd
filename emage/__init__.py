"""Emage: text-to-image in parallel (Feng et al., Emage: Non-Autoregressive Text-to-Image Generation)."""

__version__ = "0.1.0"
