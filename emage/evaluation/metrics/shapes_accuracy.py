"""For the small world of emage.data.shapes: what a checker reads off the pixels, beside what the caption says."""

from collections.abc import Iterable, Iterator

from PIL import Image

from emage.data import shapes, shapes_checker
from emage.utils.errors import InputError


def check(captions: Iterable[str]) -> None:
    """Raises InputError for a caption that is none of emage.data.shapes."""
    for caption in captions:
        try:
            shapes.parse(caption)
        except ValueError:
            raise InputError(
                f'metric "shapes" reads captions like "a small red circle above a large blue square", not {caption!r}'
            ) from None


def measure(images: Iterable[Image.Image], captions: Iterable[str]) -> Iterator[tuple[str, float]]:
    """Shares in [0, 1]: both objects' shape and colour right; their relation as well; their sizes as well."""
    verdicts = [shapes_checker.check(image, caption) for image, caption in zip(images, captions, strict=True)]
    yield "objects_right", sum(verdict.objects for verdict in verdicts) / len(verdicts)
    yield "relation_right", sum(verdict.relation for verdict in verdicts) / len(verdicts)
    yield "all_right", sum(verdict.all_correct for verdict in verdicts) / len(verdicts)
