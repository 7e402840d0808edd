"""Sheets: whatever the captions and the pictures are, each caption stays in its own cell."""

import numpy as np
import pytest
from PIL import Image

from emage import sheets

BACKGROUND, CELL = (0xEE, 0xEE, 0xEE), 128 + 16  # px
RED = Image.new("RGB", (64, 64), "red")


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def is_blank(area: np.ndarray) -> bool:
    return bool((area == BACKGROUND).all())


def test_small_pictures_are_enlarged_and_stand_in_rows():
    sheet = sheets.sheet([RED] * 3, ["", "", ""], columns=2)
    assert sheet.size == (2 * CELL, 2 * CELL)
    assert sheet.getpixel((8, 8)) == sheet.getpixel((8 + 127, 8 + 127)) == (255, 0, 0)
    assert is_blank(pixels(sheet)[CELL:, CELL:])  # the fourth place is empty


@pytest.mark.parametrize(
    "caption",
    ["x" * 3000, "word " * 300, "Москва красный автобус " * 20, "中文标题没有空格" * 40, "a\x1b[31m\u202e\n\nb" * 50],
)
def test_a_long_caption_has_four_lines_and_stays_under_its_picture(caption: str):
    sheet = sheets.sheet([RED, RED], [caption, ""], columns=2)
    text = pixels(sheet)[8 + 128 :]
    assert is_blank(text[:, CELL:]) and not is_blank(text[:, 8:CELL])
    assert sheet.height < CELL + 5 * 20
    assert is_blank(text[-4:])  # the last line is not cut


def test_letters_outside_ascii_are_not_all_the_same_box():
    drawn = {letter: sheets.sheet([RED], [letter]).tobytes() for letter in "éüЖλ"}
    assert len(set(drawn.values())) == 4


def test_a_caption_may_be_short_enough_to_be_shown_whole():
    one, same = (sheets.sheet([RED], [text]).tobytes() for text in ("a red  square", " a red square\n"))
    assert one == same
    assert sheets._wrapped("a red square", sheets._font("a"), 1000) == ["a red square"]
    assert sheets._wrapped("a red square", sheets._font("a"), 40) == ["a red", "square"]


def test_pictures_of_any_size_and_mode():
    sizes = [(1, 1), (10, 900), (3000, 200), (600, 600)]
    for mode in ("L", "RGBA", "P", "1"):
        sheet = sheets.sheet([Image.new(mode, size) for size in sizes], list("abcd"))
        assert sheet.width == 4 * (512 + 16) and 512 + 16 < sheet.height < 512 + 60


def test_printable_shows_what_would_steer_a_terminal():
    assert sheets.printable("a\x1b[31mred \u202eb\n\t c\x00") == r"a\u001b[31mred \u202eb c\u0000"
    assert sheets.printable("Café 中 😀") == "Café 中 😀"
