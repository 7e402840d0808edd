"""Pictures for people: sheets of captioned pictures and strips of frames."""

import textwrap
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

_GAP = 8  # px around every picture
_CELL = 128  # px, the least a picture is shown at


def sheet(images: Sequence[Image.Image], captions: Sequence[str], columns: int = 4) -> Image.Image:
    """The pictures in rows of `columns`, each with its caption below; small ones are enlarged, not smoothed."""
    font = ImageFont.load_default(size=12)
    shown = [_enlarged(image) for image in images]
    width, height = max(image.width for image in shown), max(image.height for image in shown)
    texts = [textwrap.wrap(caption, max(8, width // 7))[:4] for caption in captions]
    below = 15 * max((len(lines) for lines in texts), default=0)
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    cell = (width + 2 * _GAP, height + below + 2 * _GAP)
    canvas = Image.new("RGB", (columns * cell[0], rows * cell[1]), "#eeeeee")
    pen = ImageDraw.Draw(canvas)
    for i, (image, lines) in enumerate(zip(shown, texts, strict=True)):
        left, top = (i % columns) * cell[0] + _GAP, (i // columns) * cell[1] + _GAP
        canvas.paste(image, (left, top))
        pen.multiline_text((left, top + height + 2), "\n".join(lines), fill="#222222", font=font, spacing=2)
    return canvas


def strip(frames: Sequence[Image.Image]) -> Image.Image:
    """The frames of one picture side by side, as in Figure 5."""
    return sheet(frames, [f"{i}" for i in range(1, len(frames) + 1)], columns=8)


def _enlarged(image: Image.Image) -> Image.Image:
    factor = max(1, _CELL // image.width)
    return image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
