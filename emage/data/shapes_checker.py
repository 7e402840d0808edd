"""The checker of the toy world (shapes.py): it finds the shapes in an image and compares them with a caption.

It uses the palette and the four outlines. It does not depend on how the image was made.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from emage.data.shapes import BLOCK_SIZE, COLOURS, RELATIONS, SHAPES, SIZES, Scene, parse, render_outline

MIN_AREA = 40  # px; smaller spots are noise
MIN_CONTRAST = 65  # distance in RGB from the background
MAX_COLOUR_DISTANCE = 80  # in RGB; the palette's closest two colours are 100 apart
MIN_PURITY = 0.7  # fraction of the inside that is near the palette colour
MIN_OVERLAP = 0.7  # intersection over union with the best outline
MAX_ASPECT = 1.6  # longer side of a shape's bounding box, divided by the shorter one


@dataclass(frozen=True)
class DetectedShape:
    """A connected region that differs from the background. A property that was not recognised is None."""

    shape: str | None
    colour: str | None
    size: str
    centre: tuple[float, float]  # px, (x, y)


@dataclass(frozen=True)
class Verdict:
    """The parts of a caption that an image shows correctly."""

    objects: bool  # exactly two objects, both of the captioned shape and colour
    relation: bool  # and they are placed as the caption states
    sizes: bool  # and they have the captioned sizes

    @property
    def all_correct(self) -> bool:
        """Return True if the image shows all that the caption states."""
        return self.objects and self.relation and self.sizes


def check(image: Image.Image, caption: str) -> Verdict:
    """Return which parts of the caption the image shows.

    Raises:
        ValueError: The caption is not one of the toy world.
    """
    scene = parse(caption)
    found = detect_shapes(image)
    verdicts = [_compare(scene, *pair) for pair in (found, found[::-1]) if len(pair) == 2]
    return next((verdict for verdict in verdicts if verdict.objects), Verdict(False, False, False))


def _compare(scene: Scene, first: DetectedShape, second: DetectedShape) -> Verdict:
    objects = (first.shape, first.colour) == scene.first.kind and (second.shape, second.colour) == scene.second.kind
    towards = np.subtract(second.centre, first.centre)  # (x, y)
    along = towards @ RELATIONS[scene.relation]
    return Verdict(
        objects=objects,
        relation=bool(objects and along > 0 and along == abs(towards).max()),
        sizes=objects and (first.size, second.size) == (scene.first.size, scene.second.size),
    )


def detect_shapes(image: Image.Image) -> list[DetectedShape]:
    """Return all spots of at least MIN_AREA px that stand out from the background, in no particular order."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)  # (H, W, 3)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    contrast = np.linalg.norm(pixels - np.median(border, axis=0), axis=-1)  # (H, W)
    labels = _connected_components(contrast > MIN_CONTRAST)
    names, areas = np.unique(labels[labels > 0], return_counts=True)
    return [_detect_shape(pixels, contrast, labels == name) for name in names[areas >= MIN_AREA]]


def _connected_components(mask: np.ndarray) -> np.ndarray:
    """Return (H, W) int, one positive number for each 4-connected component of `mask`, (H, W) bool."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:  # the largest number floods its component
        edged = np.pad(labels, 1)
        spread = np.maximum.reduce([labels, edged[:-2, 1:-1], edged[2:, 1:-1], edged[1:-1, :-2], edged[1:-1, 2:]])
        spread *= mask
        if (spread == labels).all():
            return labels
        labels = spread


def _detect_shape(pixels: np.ndarray, contrast: np.ndarray, spot: np.ndarray) -> DetectedShape:
    """Return shape, colour, size and centre of `spot`, (H, W) bool."""
    edged = np.pad(spot, 1)
    inside = spot & edged[:-2, 1:-1] & edged[2:, 1:-1] & edged[1:-1, :-2] & edged[1:-1, 2:]
    if not inside.any():  # a line one or two px thin
        inside = spot
    # An antialiased edge is half as strong as the inside: the outline is there, however blurred it is.
    spot = spot & (contrast > 0.5 * np.median(contrast[inside]))
    ys, xs = np.nonzero(spot)
    top, left, height, width = ys.min(), xs.min(), int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1
    return DetectedShape(
        shape=_classify_shape(spot[top : top + height, left : left + width]),
        colour=_classify_colour(pixels[inside]),
        size="small" if max(height, width) < (SIZES["small"] + SIZES["large"]) * BLOCK_SIZE / 2 else "large",
        centre=(left + width / 2, top + height / 2),
    )


def _classify_shape(spot: np.ndarray) -> str | None:
    """Return the name of the best outline for `spot`: (h, w) bool, cropped to its bounding box."""
    height, width = spot.shape
    if max(height, width) > MAX_ASPECT * min(height, width):
        return None
    overlap = {}
    for shape in SHAPES:
        outline = np.asarray(render_outline(shape, width, height)) > 127
        overlap[shape] = (spot & outline).sum() / (spot | outline).sum()
    best = max(overlap, key=overlap.__getitem__)
    return best if overlap[best] >= MIN_OVERLAP else None


def _classify_colour(pixels: np.ndarray) -> str | None:
    """Return the name of the palette colour of `pixels`, (n, 3)."""
    median = np.median(pixels, axis=0)
    best = min(COLOURS, key=lambda name: np.linalg.norm(median - COLOURS[name]))
    near = np.linalg.norm(pixels - COLOURS[best], axis=-1) <= MAX_COLOUR_DISTANCE
    return best if near.mean() >= MIN_PURITY and np.linalg.norm(median - COLOURS[best]) <= MAX_COLOUR_DISTANCE else None
