"""The demo's small world: captioned images of two shapes, and a checker that reads them back.

An image is 64x64 RGB, white, with two objects: "a small red circle above a large blue square".
    4 shapes x 6 colours x 2 sizes, 4 relations; the two objects differ in shape or colour.

Layout, in cells of 8x8 px: a small object fills 2x2 cells, a large one 3x3, and both snap to the grid, so that equal
patches recur: 133 distinct ones in all training images. Along the relation the two lie at opposite ends, moved
together by 0..jitter cells, at least one cell apart; across it each lies near the middle, moved by 0..jitter cells.
With the default jitter of 1 a caption has 2 x 2 x 2 = 8 images: 3 bits, which a small model learns in minutes.

Held out of training, so that captions can be scored that need more than memory:
    combinations   a tenth of all pairs of objects (red circle with blue square): each was seen, never the two together;
    objects        two colours of the square, never seen at all, which is far harder. A square is made of plain patches
                   that other shapes show in training, so every token that a green square needs is known.

The checker knows the palette and the four outlines, nothing of who made the image.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SIDE = 64  # px
CELL = 8  # px
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (250, 225, 30),
    "purple": (150, 50, 180),
    "orange": (250, 130, 0),
}
SIZES = {"small": 2, "large": 3}  # cells
RELATIONS = {"above": (0, 1), "below": (0, -1), "left of": (1, 0), "right of": (-1, 0)}  # (x, y) from first to second
KINDS = tuple(itertools.product(SHAPES, COLOURS))  # 24 (shape, colour)
HELD_OUT_KINDS = (("square", "green"), ("square", "purple"))
_COMBINATIONS = [frozenset(two) for two in itertools.combinations(KINDS, 2)]
HELD_OUT_COMBINATIONS = frozenset(random.Random(0).sample(_COMBINATIONS, len(_COMBINATIONS) // 10))  # 27 of 276


# ---------------------------------------------------------------------------------------------------------------------
# Scenes and captions


@dataclass(frozen=True)
class Thing:
    size: str
    colour: str
    shape: str

    @property
    def kind(self) -> tuple[str, str]:
        return self.shape, self.colour

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    first: Thing
    relation: str
    second: Thing

    @property
    def caption(self) -> str:
        return f"{self.first} {self.relation} {self.second}"


def parse(caption: str) -> Scene:
    """The scene that a caption describes; the inverse of `Scene.caption`."""
    for relation in RELATIONS:
        first, found, second = caption.partition(f" {relation} ")
        if found:
            return Scene(_parse_thing(first), relation, _parse_thing(second))
    raise ValueError(f"no relation in {caption!r}: expected one of {', '.join(RELATIONS)}")


def _parse_thing(text: str) -> Thing:
    match text.split():
        case ["a", size, colour, shape] if size in SIZES and colour in COLOURS and shape in SHAPES:
            return Thing(size, colour, shape)
    raise ValueError(f"cannot read {text!r}: expected something like 'a small red circle'")


def scenes(n: int, seed: int) -> list[Scene]:
    """n random scenes of all kinds and combinations."""
    return _sample(n, seed, lambda kinds: True)


def train_scenes(n: int, seed: int) -> list[Scene]:
    """n random scenes with nothing in them that is held out."""
    return _sample(n, seed, lambda kinds: not _has_unseen_kind(kinds) and kinds not in HELD_OUT_COMBINATIONS)


def held_out_scenes(n: int, seed: int) -> list[Scene]:
    """n random scenes of two objects that training shows, though never together."""
    return _sample(n, seed, lambda kinds: not _has_unseen_kind(kinds) and kinds in HELD_OUT_COMBINATIONS)


def unseen_kind_scenes(n: int, seed: int) -> list[Scene]:
    """n random scenes, each with at least one object of a shape and colour that training never joins."""
    return _sample(n, seed, _has_unseen_kind)


def _has_unseen_kind(kinds: frozenset[tuple[str, str]]) -> bool:
    return not kinds.isdisjoint(HELD_OUT_KINDS)


def _sample(n: int, seed: int, accept: Callable[[frozenset[tuple[str, str]]], bool]) -> list[Scene]:
    rng = np.random.default_rng(seed)
    found: list[Scene] = []
    while len(found) < n:
        first, second = _random_thing(rng), _random_thing(rng)
        relation = tuple(RELATIONS)[rng.integers(len(RELATIONS))]
        kinds = frozenset((first.kind, second.kind))
        # Two objects of one kind would make the relation unreadable.
        if len(kinds) == 2 and accept(kinds):
            found.append(Scene(first, relation, second))
    return found


def _random_thing(rng: np.random.Generator) -> Thing:
    return Thing(*(tuple(names)[rng.integers(len(names))] for names in (SIZES, COLOURS, SHAPES)))


# ---------------------------------------------------------------------------------------------------------------------
# Drawing


def draw(scene: Scene, rng: np.random.Generator, *, jitter: int = 1) -> Image.Image:
    """One of the scene's images; jitter: 0 or 1 cell."""
    if jitter not in (0, 1):
        raise ValueError(f"jitter is 0 or 1 cell, not {jitter}: with more, two large objects would touch")
    cells = SIDE // CELL
    shift = rng.integers(jitter + 1)
    direction = RELATIONS[scene.relation]
    image = Image.new("RGB", (SIDE, SIDE), "white")
    for thing, sign in ((scene.first, 1), (scene.second, -1)):
        size = SIZES[thing.size]
        along = shift if sign in direction else cells - jitter + shift - size  # the first lies above when y is +1
        across = (cells - size) // 2 + rng.integers(jitter + 1)
        x, y = (along, across) if direction[0] else (across, along)
        mask = _outline(thing.shape, size * CELL, size * CELL)
        image.paste(COLOURS[thing.colour], (int(x) * CELL, int(y) * CELL), mask)
    return image


def draw_many(scenes: list[Scene], seed: int) -> np.ndarray:
    """One image of each scene: (n, 64, 64, 3) uint8."""
    rng = np.random.default_rng(seed)
    return np.stack([np.asarray(draw(scene, rng)) for scene in scenes])


@lru_cache(maxsize=4096)
def _outline(shape: str, width: int, height: int) -> Image.Image:
    """The shape filling a box of width x height px, as an antialiased mask (mode L, 255 inside)."""
    fine = 8
    w, h = width * fine, height * fine
    image = Image.new("L", (w, h), 0)
    pen = ImageDraw.Draw(image)
    right, bottom = w - 1, h - 1
    if shape == "circle":
        pen.ellipse((0, 0, right, bottom), fill=255)
    elif shape == "square":
        pen.rectangle((0, 0, right, bottom), fill=255)
    elif shape == "triangle":
        pen.polygon([(0, bottom), (right, bottom), (right / 2, 0)], fill=255)
    elif shape == "cross":
        notch_x, notch_y = round(width / 3) * fine, round(height / 3) * fine  # whole px keep the arms sharp
        pen.rectangle((notch_x, 0, right - notch_x, bottom), fill=255)
        pen.rectangle((0, notch_y, right, bottom - notch_y), fill=255)
    else:
        raise ValueError(f"no shape {shape!r}")
    return image.reduce(fine)


# ---------------------------------------------------------------------------------------------------------------------
# Reading

MIN_AREA = 40  # px; smaller spots are noise
MIN_CONTRAST = 65  # distance in RGB from the background
MAX_COLOUR_DISTANCE = 80  # in RGB; the palette's closest two colours are 100 apart
MIN_PURITY = 0.7  # share of the inside near the palette colour
MIN_OVERLAP = 0.7  # intersection over union with the best outline
MAX_ASPECT = 1.6


@dataclass(frozen=True)
class Found:
    """A spot in an image. What is None could not be read."""

    shape: str | None
    colour: str | None
    size: str
    centre: tuple[float, float]  # px, (x, y)


@dataclass(frozen=True)
class Verdict:
    objects: bool  # exactly two objects, both of the right shape and colour
    relation: bool  # and they stand as the caption says
    sizes: bool  # and have the captioned sizes

    @property
    def right(self) -> bool:
        return self.objects and self.relation and self.sizes


def read(image: Image.Image) -> list[Found]:
    """All spots of at least MIN_AREA px that stand out from the background, in no particular order."""
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)  # (H, W, 3)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    contrast = np.linalg.norm(pixels - np.median(border, axis=0), axis=-1)  # (H, W)
    labels = _components(contrast > MIN_CONTRAST)
    names, areas = np.unique(labels[labels > 0], return_counts=True)
    return [_read_spot(pixels, contrast, labels == name) for name in names[areas >= MIN_AREA]]


def _components(mask: np.ndarray) -> np.ndarray:
    """(H, W) bool -> (H, W) int, one positive number for each 4-connected component."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:  # the largest number floods its component
        edged = np.pad(labels, 1)
        spread = np.maximum.reduce([labels, edged[:-2, 1:-1], edged[2:, 1:-1], edged[1:-1, :-2], edged[1:-1, 2:]])
        spread *= mask
        if (spread == labels).all():
            return labels
        labels = spread


def _read_spot(pixels: np.ndarray, contrast: np.ndarray, spot: np.ndarray) -> Found:
    edged = np.pad(spot, 1)
    inside = spot & edged[:-2, 1:-1] & edged[2:, 1:-1] & edged[1:-1, :-2] & edged[1:-1, 2:]
    if not inside.any():  # a line one or two px thin
        inside = spot
    # An antialiased edge is half as strong as the inside: the outline runs there, however blurred it is.
    spot = spot & (contrast > 0.5 * np.median(contrast[inside]))
    ys, xs = np.nonzero(spot)
    top, left, height, width = ys.min(), xs.min(), int(np.ptp(ys)) + 1, int(np.ptp(xs)) + 1
    return Found(
        shape=_read_shape(spot[top : top + height, left : left + width]),
        colour=_read_colour(pixels[inside]),
        size="small" if max(height, width) < (SIZES["small"] + SIZES["large"]) * CELL / 2 else "large",
        centre=(left + width / 2, top + height / 2),
    )


def _read_shape(spot: np.ndarray) -> str | None:
    """spot: (h, w) bool, cut to its bounding box."""
    height, width = spot.shape
    if max(height, width) > MAX_ASPECT * min(height, width):
        return None
    overlap = {}
    for shape in SHAPES:
        outline = np.asarray(_outline(shape, width, height)) > 127
        overlap[shape] = (spot & outline).sum() / (spot | outline).sum()
    best = max(overlap, key=overlap.__getitem__)
    return best if overlap[best] >= MIN_OVERLAP else None


def _read_colour(pixels: np.ndarray) -> str | None:
    """pixels: (n, 3)."""
    median = np.median(pixels, axis=0)
    best = min(COLOURS, key=lambda name: np.linalg.norm(median - COLOURS[name]))
    near = np.linalg.norm(pixels - COLOURS[best], axis=-1) <= MAX_COLOUR_DISTANCE
    return best if near.mean() >= MIN_PURITY and np.linalg.norm(median - COLOURS[best]) <= MAX_COLOUR_DISTANCE else None


def check(image: Image.Image, caption: str) -> Verdict:
    """Does the image show what the caption says?"""
    scene = parse(caption)
    found = read(image)
    verdicts = [_compare(scene, *pair) for pair in (found, found[::-1]) if len(pair) == 2]
    return next((verdict for verdict in verdicts if verdict.objects), Verdict(False, False, False))


def _compare(scene: Scene, first: Found, second: Found) -> Verdict:
    objects = (first.shape, first.colour) == scene.first.kind and (second.shape, second.colour) == scene.second.kind
    towards = np.subtract(second.centre, first.centre)  # (x, y)
    along = towards @ RELATIONS[scene.relation]
    return Verdict(
        objects=objects,
        relation=bool(objects and along > 0 and along == abs(towards).max()),
        sizes=objects and (first.size, second.size) == (scene.first.size, scene.second.size),
    )


def one_attribute_changed(scene: Scene, rng: np.random.Generator) -> Scene:
    """A wrong caption for the scene's images: one word of it replaced by another of its kind."""
    field = ("first", "second", "relation")[rng.integers(3)]
    if field == "relation":
        return replace(scene, relation=_other(scene.relation, RELATIONS, rng))
    thing = getattr(scene, field)
    part, names = (("size", SIZES), ("colour", COLOURS), ("shape", SHAPES))[rng.integers(3)]
    return replace(scene, **{field: replace(thing, **{part: _other(getattr(thing, part), names, rng)})})


def _other(name: str, names, rng: np.random.Generator) -> str:
    others = [other for other in names if other != name]
    return others[rng.integers(len(others))]
