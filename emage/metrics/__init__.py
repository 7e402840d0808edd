"""Figures over drawn pictures. A metric is a module with `measure(images, captions)`, which yields (name, value)."""

from types import ModuleType

from emage.metrics import shapes

METRICS: dict[str, ModuleType] = {"shapes": shapes}
