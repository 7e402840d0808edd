"""For the small world of emage.shapes: what a checker reads off the pixels, beside what the caption says."""

from collections.abc import Iterable, Iterator

from PIL import Image

from emage.shapes import check


def measure(images: Iterable[Image.Image], captions: Iterable[str]) -> Iterator[tuple[str, float]]:
    """Shares in [0, 1]: both objects' shape and colour right; their relation as well; their sizes as well."""
    verdicts = [check(image, caption) for image, caption in zip(images, captions, strict=True)]
    yield "objects_right", sum(verdict.objects for verdict in verdicts) / len(verdicts)
    yield "relation_right", sum(verdict.relation for verdict in verdicts) / len(verdicts)
    yield "all_right", sum(verdict.right for verdict in verdicts) / len(verdicts)
