"""Accuracy on the toy world of emage.data.shapes: a checker detects the shapes and compares them with the caption."""

from collections.abc import Iterable, Iterator

from PIL import Image

from emage.data import shapes, shapes_checker
from emage.utils.errors import InputError


def check(captions: Iterable[str]) -> None:
    """Raise InputError for a caption that is not one of the toy world."""
    for caption in captions:
        try:
            shapes.parse(caption)
        except ValueError:
            raise InputError(
                f'metric "shapes" reads captions like "a small red circle above a large blue square", not {caption!r}'
            ) from None


def measure(images: Iterable[Image.Image], captions: Iterable[str]) -> Iterator[tuple[str, float]]:
    """Yield fractions of images.

    `objects_right`: shapes and colours are correct; `relation_right`: and their relation; `all_right`: and their sizes.
    """
    verdicts = [shapes_checker.check(image, caption) for image, caption in zip(images, captions, strict=True)]
    yield "objects_right", sum(verdict.objects for verdict in verdicts) / len(verdicts)
    yield "relation_right", sum(verdict.relation for verdict in verdicts) / len(verdicts)
    yield "all_right", sum(verdict.all_correct for verdict in verdicts) / len(verdicts)
