"""Figures over drawn pictures. A metric is a module with these names:

check(captions)             raises InputError where it can say nothing about such captions
measure(images, captions)   yields (name, value)
"""

from types import ModuleType

from emage.metrics import shapes

METRICS: dict[str, ModuleType] = {"shapes": shapes}
