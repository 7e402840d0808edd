"""The demo's toy world: captions of two shapes, and images that show them. shapes_checker.py checks an image.

An image is 64x64 RGB, white, with two objects: "a small red circle above a large blue square".
    4 shapes x 6 colours x 2 sizes, 4 relations; the two objects differ in shape or colour.

Layout, in blocks of 8x8 px: a small object fills 2x2 blocks, a large one 3x3, and both snap to the blocks, so that
equal patches recur: all training images have 133 distinct ones. Along the relation the two objects are at opposite
ends, moved together by 0..jitter blocks, at least one block apart; across it each is near the middle, moved by
0..jitter blocks. With the default jitter of 1 a caption has 2 x 2 x 2 = 8 images: 3 bits, which a small model learns in
minutes.

Some captions are held out of training, so that a model cannot score by memorising:
    combinations   a tenth of all pairs of objects (red circle with blue square): training shows each of the two, never
                   both in one image;
    objects        two colours of the square, which training never shows: far harder. A square is made of plain patches
                   that other shapes show in training, so every token that a green square needs occurs there.
"""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

IMAGE_SIZE = 64  # px, width and height
BLOCK_SIZE = 8  # px
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (250, 225, 30),
    "purple": (150, 50, 180),
    "orange": (250, 130, 0),
}
SIZES = {"small": 2, "large": 3}  # blocks
RELATIONS = {"above": (0, 1), "below": (0, -1), "left of": (1, 0), "right of": (-1, 0)}  # (x, y) from first to second
KINDS = tuple(itertools.product(SHAPES, COLOURS))  # all 24 kinds of objects: (shape, colour)
HELD_OUT_KINDS = (("square", "green"), ("square", "purple"))
_COMBINATIONS = [frozenset(two) for two in itertools.combinations(KINDS, 2)]
HELD_OUT_COMBINATIONS = frozenset(random.Random(0).sample(_COMBINATIONS, len(_COMBINATIONS) // 10))  # 27 of 276


# Scenes and their captions


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene, in the caption's words."""

    size: str
    colour: str
    shape: str

    @property
    def kind(self) -> tuple[str, str]:
        """Return (shape, colour)."""
        return self.shape, self.colour

    def __str__(self) -> str:
        return f"a {self.size} {self.colour} {self.shape}"


@dataclass(frozen=True)
class Scene:
    """Two objects and their relation. A caption describes one scene; a scene has several images."""

    first: SceneObject
    relation: str
    second: SceneObject

    @property
    def caption(self) -> str:
        """Return the only caption of the scene."""
        return f"{self.first} {self.relation} {self.second}"


def parse(caption: str) -> Scene:
    """Return the scene that a caption describes: the inverse of `Scene.caption`.

    Raises:
        ValueError: The caption is not one of this world.
    """
    for relation in RELATIONS:
        first, separator, second = caption.partition(f" {relation} ")
        if separator:
            return Scene(_parse_object(first), relation, _parse_object(second))
    raise ValueError(f"no relation in {caption!r}: expected one of {', '.join(RELATIONS)}")


def _parse_object(text: str) -> SceneObject:
    match text.split():
        case ["a", size, colour, shape] if size in SIZES and colour in COLOURS and shape in SHAPES:
            return SceneObject(size, colour, shape)
    raise ValueError(f"cannot read {text!r}: expected something like 'a small red circle'")


def sample_scenes(n: int, seed: int) -> list[Scene]:
    """Return n random scenes of all kinds and combinations, held-out ones included."""
    return _sample(n, seed, lambda kinds: True)


def sample_train_scenes(n: int, seed: int) -> list[Scene]:
    """Return n random scenes in which nothing is held out of training."""
    return _sample(n, seed, lambda kinds: not _has_unseen_kind(kinds) and kinds not in HELD_OUT_COMBINATIONS)


def sample_held_out_scenes(n: int, seed: int) -> list[Scene]:
    """Return n random scenes of two objects that training shows, but never together."""
    return _sample(n, seed, lambda kinds: not _has_unseen_kind(kinds) and kinds in HELD_OUT_COMBINATIONS)


def sample_unseen_kind_scenes(n: int, seed: int) -> list[Scene]:
    """Return n random scenes, each with an object whose shape and colour training never combines."""
    return _sample(n, seed, _has_unseen_kind)


def _has_unseen_kind(kinds: frozenset[tuple[str, str]]) -> bool:
    return not kinds.isdisjoint(HELD_OUT_KINDS)


def _sample(n: int, seed: int, accept: Callable[[frozenset[tuple[str, str]]], bool]) -> list[Scene]:
    rng = np.random.default_rng(seed)
    scenes: list[Scene] = []
    while len(scenes) < n:
        first, second = _sample_object(rng), _sample_object(rng)
        relation = tuple(RELATIONS)[rng.integers(len(RELATIONS))]
        kinds = frozenset((first.kind, second.kind))
        # Two objects of one kind would make the relation unreadable.
        if len(kinds) == 2 and accept(kinds):
            scenes.append(Scene(first, relation, second))
    return scenes


def _sample_object(rng: np.random.Generator) -> SceneObject:
    return SceneObject(*(tuple(names)[rng.integers(len(names))] for names in (SIZES, COLOURS, SHAPES)))


# Images of the scenes


def render(scene: Scene, rng: np.random.Generator, *, jitter: int = 1) -> Image.Image:
    """Return one of the scene's images.

    Args:
        scene: The two objects and their relation.
        rng: The source of the offsets.
        jitter: The largest offset in blocks: 0 or 1.
    """
    if jitter not in (0, 1):
        raise ValueError(f"jitter is 0 or 1 block, not {jitter}: with more, two large objects would touch")
    blocks = IMAGE_SIZE // BLOCK_SIZE
    shift = rng.integers(jitter + 1)
    direction = RELATIONS[scene.relation]
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), "white")
    for item, sign in ((scene.first, 1), (scene.second, -1)):
        size = SIZES[item.size]
        along = shift if sign in direction else blocks - jitter + shift - size  # the first is above if y is +1
        across = (blocks - size) // 2 + rng.integers(jitter + 1)
        x, y = (along, across) if direction[0] else (across, along)
        mask = render_outline(item.shape, size * BLOCK_SIZE, size * BLOCK_SIZE)
        image.paste(COLOURS[item.colour], (int(x) * BLOCK_SIZE, int(y) * BLOCK_SIZE), mask)
    return image


def render_many(scenes: list[Scene], seed: int) -> np.ndarray:
    """Return one image of each scene: (n, 64, 64, 3) uint8."""
    rng = np.random.default_rng(seed)
    return np.stack([np.asarray(render(scene, rng)) for scene in scenes])


@lru_cache(maxsize=4096)
def render_outline(shape: str, width: int, height: int) -> Image.Image:
    """Return the shape that fills a box of width x height px, as an antialiased mask (mode L, 255 inside)."""
    scale = 8  # the shape is rendered so many times larger, then reduced
    w, h = width * scale, height * scale
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
        notch_x, notch_y = round(width / 3) * scale, round(height / 3) * scale  # whole px keep the arms sharp
        pen.rectangle((notch_x, 0, right - notch_x, bottom), fill=255)
        pen.rectangle((0, notch_y, right, bottom - notch_y), fill=255)
    else:
        raise ValueError(f"unknown shape {shape!r}: expected one of {', '.join(SHAPES)}")
    return image.reduce(scale)
