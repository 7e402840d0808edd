"""Figures over drawn images. A metric is a module with these names:

check(captions)             raises InputError where it can say nothing about such captions
measure(images, captions)   yields (name, value)

Figures that need no captions take images as uint8 (B, 3, H, W), a batch at a time. Over pairs, an image and what
became of it (`pairs`): a callable (originals, rebuilt) -> (B,), one number a pair. Over two sets (`sets`): figures of
the features of each, which `features` draws from images and `reference` keeps for the real ones; `frechet` has
Moments that add up over batches and workers. Over images and captions together: `clip_score`.
"""

from types import ModuleType

from emage.evaluation.metrics import shapes_accuracy

METRICS: dict[str, ModuleType] = {"shapes": shapes_accuracy}
