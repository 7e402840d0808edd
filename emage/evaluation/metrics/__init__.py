"""Metrics of generated images.

METRICS holds the metrics that need images and captions alone. Each is a module with these functions:

check(captions)             raise InputError for captions that the metric cannot score
measure(images, captions)   yield (name, value)

The other metrics take tensors. `psnr_lpips` and `reconstruction` compare pairs of an image and its reconstruction, as
uint8 (B, 3, H, W). `set_metrics` compares the features of two sets of images; `frechet` has the formula of the FID.
`clip_score` compares images with their captions.
"""

from types import ModuleType

from emage.evaluation.metrics import shapes_accuracy

METRICS: dict[str, ModuleType] = {"shapes": shapes_accuracy}
