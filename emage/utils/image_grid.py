"""Image grids with captions, and filmstrips of an image's decoding steps.

Captions come from the web: they may be of any length and in any script, and may hold characters that no font shows.
"""

import importlib.util
from bisect import bisect_right
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

_GAP = 8  # px around every image
_MIN_SIDE, _MAX_SIDE = 128, 512  # px, bounds of the longer side of a shown image
_FONT_SIZE = 12
_MAX_LINES = 4  # of a caption
_MAX_CHARACTERS = 500  # of a caption; four lines never hold more

_Font = ImageFont.FreeTypeFont

# Pillow's own font has no letter outside ASCII: `_font` also tries those of these fonts that are installed.
_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msyh.ttc")


def make_grid(images: Sequence[Image.Image], captions: Sequence[str], columns: int = 4) -> Image.Image:
    """Return the images in rows of `columns`, each with its caption below; small ones are enlarged, not smoothed.

    Images may have different sizes; at least one is needed. A caption that is too long ends in "…".
    """
    shown = [_resized(image) for image in images]
    width, height = max(image.width for image in shown), max(image.height for image in shown)
    fonts = [_font(caption[:_MAX_CHARACTERS]) for caption in captions]
    texts = [_wrapped(caption, font, width) for caption, font in zip(captions, fonts, strict=True)]
    line_height = max((sum(font.getmetrics()) + 1 for font in fonts), default=0)
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    cell = (width + 2 * _GAP, height + line_height * max(map(len, texts)) + 2 * _GAP)
    canvas = Image.new("RGB", (columns * cell[0], rows * cell[1]), "#eeeeee")
    pen = ImageDraw.Draw(canvas)
    for i, (image, lines, font) in enumerate(zip(shown, texts, fonts, strict=True)):
        left, top = (i % columns) * cell[0] + _GAP, (i // columns) * cell[1] + _GAP
        canvas.paste(image, (left, top))
        _write(pen, (left, top + image.height + 2), lines, font, line_height)
    return canvas


def make_filmstrip(frames: Sequence[Image.Image]) -> Image.Image:
    """Return all frames of one image, numbered, in rows of eight."""
    return make_grid(frames, [f"{i}" for i in range(1, len(frames) + 1)], columns=8)


def make_filmstrips(
    images: Sequence[Sequence[Image.Image]],
    prompts: Sequence[str],
    columns: int = 8,
    iterations: Sequence[int] | None = None,
) -> Image.Image:
    """Return filmstrips as in Figure 5: a row per prompt, below its text, and a column per decoding step.

    Args:
        images: The frames of each prompt, one per decoding step; equally many for all prompts.
        prompts: The texts.
        columns: Number of decoding steps that are shown, evenly spaced.
        iterations: The decoding steps that are shown, counted from 1, in place of `columns`.
    """
    iterations = iterations or evenly_spaced(len(images[0]), columns)
    rows = [[_resized(frames[i - 1]) for i in iterations] for frames in images]
    width = max(frame.width for row in rows for frame in row) + 2 * _GAP
    height = max(frame.height for row in rows for frame in row) + 2 * _GAP
    fonts = [_font(prompt[:_MAX_CHARACTERS]) for prompt in prompts]
    texts = [
        _wrapped(text, font, width * len(iterations) - 2 * _GAP) for text, font in zip(prompts, fonts, strict=True)
    ]
    line_height = max(sum(font.getmetrics()) + 1 for font in fonts)
    tops = list(accumulate((height + line_height * len(lines) for lines in texts), initial=line_height + _GAP))
    canvas = Image.new("RGB", (width * len(iterations), tops[-1]), "#eeeeee")
    pen = ImageDraw.Draw(canvas)
    for column, number in enumerate(iterations):
        label = f"iteration {number}" if column == 0 else f"{number}"
        _write(pen, (column * width + _GAP, _GAP), [label], _font(label), line_height)
    for top, row, lines, font in zip(tops[:-1], rows, texts, fonts, strict=True):
        _write(pen, (_GAP, top + _GAP - 2), lines, font, line_height)
        for column, frame in enumerate(row):
            canvas.paste(frame, (column * width + _GAP, top + _GAP + line_height * len(lines)))
    return canvas


def evenly_spaced(total: int, columns: int) -> list[int]:
    """Return at most `columns` numbers of 1..total, evenly spaced, with the first and the last; for one, the last."""
    count = min(total, columns)
    return [total - round(i * (total - 1) / max(1, count - 1)) for i in reversed(range(count))]


def printable(text: str) -> str:
    r"""Return the text on one line, with control characters as escapes: \u001b, \u202e."""
    return " ".join("".join(_visible(character) for character in text).split())


def _visible(character: str) -> str:
    if character.isprintable():
        return character
    return " " if character.isspace() else f"\\u{ord(character):04x}"


def _resized(image: Image.Image) -> Image.Image:
    """Return the image as RGB, its longer side within _MIN_SIDE and _MAX_SIDE."""
    image = image.convert("RGB")
    longer = max(image.size)
    if longer > _MAX_SIDE:
        image.thumbnail((_MAX_SIDE, _MAX_SIDE))
        return image
    factor = max(1, _MIN_SIDE // longer)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


# --- Text ------------------------------------------------------------------------------------------------------------


def _write(pen: ImageDraw.ImageDraw, corner: tuple[int, int], lines: Sequence[str], font: _Font, height: int) -> None:
    """Write lines of text below each other; `corner` is the upper left one, `height` that of a line."""
    for number, line in enumerate(lines):
        pen.text((corner[0], corner[1] + number * height), line, fill="#222222", font=font)


@lru_cache(maxsize=1)
def _fonts() -> tuple[_Font, ...]:
    """Return Pillow's own font, and those of _FONTS that are installed."""
    fonts = [ImageFont.load_default(size=_FONT_SIZE)]
    matplotlib = importlib.util.find_spec("matplotlib")  # not imported: only its copy of DejaVu Sans is used
    folder = Path(matplotlib.origin).parent / "mpl-data/fonts/ttf" if matplotlib and matplotlib.origin else Path()
    for name in (*_FONTS, str(folder / _FONTS[0])):
        with suppress(OSError):
            fonts.append(ImageFont.truetype(name, _FONT_SIZE))
    return tuple(font for font in fonts if isinstance(font, _Font))


def _font(text: str) -> _Font:
    """Return the font that has the most of the text's characters; of equals, the first."""
    characters = set(printable(text))
    return max(_fonts(), key=lambda font: sum(_has(font, character) for character in characters))


@lru_cache(maxsize=1 << 14)
def _has(font: _Font, character: str) -> bool:
    """Return whether a font has a character; a missing one is shown as the same box as U+FFFF, which no font has."""
    glyph: Any = font.getmask(character)
    box: Any = font.getmask("\uffff")
    return glyph.size != box.size or bytes(glyph) != bytes(box)


def _wrapped(text: str, font: _Font, width: int) -> list[str]:
    """Return the text as at most _MAX_LINES lines of at most `width` px."""
    rest = printable(text[:_MAX_CHARACTERS])
    lines: list[str] = []
    while rest and len(lines) < _MAX_LINES:
        line = _beginning(rest, font, width)
        lines.append(line.rstrip())
        rest = rest[len(line) :].lstrip()
    if rest:
        last = lines[-1] + "…"
        while font.getlength(last) > width and len(last) > 1:
            last = last[:-2].rstrip() + "…"
        lines[-1] = last
    return lines


def _beginning(text: str, font: _Font, width: int) -> str:
    """Return the start of the text that fits into `width` px, up to a space if it has one; at least one character."""
    end = max(1, bisect_right(range(1, len(text) + 1), width, key=lambda n: font.getlength(text[:n])))
    space = text.rfind(" ", 0, end + 1)
    return text[: space + 1] if space > 0 and end < len(text) else text[:end]
