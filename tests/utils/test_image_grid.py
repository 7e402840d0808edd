"""Image grids and filmstrips: captions of any length and script stay within their cell."""

from itertools import groupby

import numpy as np
import pytest
from PIL import Image

from emage.utils import image_grid

BACKGROUND, CELL = (0xEE, 0xEE, 0xEE), 128 + 16  # px
RED = Image.new("RGB", (64, 64), "red")


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


def is_blank(area: np.ndarray) -> bool:
    return bool((area == BACKGROUND).all())


def test_small_images_are_enlarged_and_arranged_in_rows():
    sheet = image_grid.make_grid([RED] * 3, ["", "", ""], columns=2)
    assert sheet.size == (2 * CELL, 2 * CELL)
    assert sheet.getpixel((8, 8)) == sheet.getpixel((8 + 127, 8 + 127)) == (255, 0, 0)
    assert is_blank(pixels(sheet)[CELL:, CELL:])  # the fourth cell is empty


@pytest.mark.parametrize(
    "caption",
    ["x" * 3000, "word " * 300, "Москва красный автобус " * 20, "中文标题没有空格" * 40, "a\x1b[31m\u202e\n\nb" * 50],
)
def test_a_long_caption_has_four_lines_and_stays_under_its_image(caption: str):
    sheet = image_grid.make_grid([RED, RED], [caption, ""], columns=2)
    text = pixels(sheet)[8 + 128 :]
    assert is_blank(text[:, CELL:]) and not is_blank(text[:, 8:CELL])
    assert sheet.height < CELL + 5 * 20
    assert is_blank(text[-4:])  # the last line is not cut


def test_letters_outside_ascii_are_not_all_the_same_box():
    drawn = {letter: image_grid.make_grid([RED], [letter]).tobytes() for letter in "éüЖλ"}
    assert len(set(drawn.values())) == 4


def test_a_short_caption_is_not_truncated():
    one, same = (image_grid.make_grid([RED], [text]).tobytes() for text in ("a red  square", " a red square\n"))
    assert one == same
    assert image_grid._wrapped("a red square", image_grid._font("a"), 1000) == ["a red square"]
    assert image_grid._wrapped("a red square", image_grid._font("a"), 40) == ["a red", "square"]


def test_images_of_any_size_and_mode():
    sizes = [(1, 1), (10, 900), (3000, 200), (600, 600)]
    for mode in ("L", "RGBA", "P", "1"):
        sheet = image_grid.make_grid([Image.new(mode, size) for size in sizes], list("abcd"))
        assert sheet.width == 4 * (512 + 16) and 512 + 16 < sheet.height < 512 + 60


# --- Strips ----------------------------------------------------------------------------------------------------------


def frames(count: int, first: str) -> list[Image.Image]:
    """The first one in a colour, the others in greys that get lighter: frame i is 10 i."""
    return [Image.new("RGB", (64, 64), first)] + [Image.new("L", (64, 64), 10 * i) for i in range(2, count + 1)]


@pytest.mark.parametrize(
    ("total", "columns", "numbers"),
    [(16, 8, [1, 3, 5, 7, 10, 12, 14, 16]), (4, 8, [1, 2, 3, 4]), (1024, 3, [1, 512, 1024]), (1, 8, [1]), (5, 1, [5])],
)
def test_filmstrips_show_some_of_the_decoding_steps(total: int, columns: int, numbers: list[int]):
    assert image_grid.evenly_spaced(total, columns) == numbers


@pytest.mark.parametrize("total", range(1, 40))
def test_shown_decoding_steps_increase_from_the_first_to_the_last(total: int):
    numbers = image_grid.evenly_spaced(total, 8)
    assert numbers == sorted(set(numbers)) and len(numbers) == min(8, total) and (numbers[0], numbers[-1]) == (1, total)


def test_a_row_per_prompt_and_a_column_per_decoding_step():
    strips = pixels(
        image_grid.make_filmstrips(
            [frames(16, "red"), frames(16, "blue")], ["a red square", "a blue square"], columns=3
        )
    )
    assert strips.shape[1] == 3 * CELL
    for place, colours in enumerate([[(255, 0, 0), (0, 0, 255)], [(80,) * 3] * 2, [(160,) * 3] * 2]):
        middle = map(tuple, strips[:, place * CELL + CELL // 2].tolist())
        assert [colour for colour, run in groupby(middle) if len(list(run)) == 128] == colours  # from top to bottom


def test_a_long_prompt_stays_above_its_row():
    short, long = (image_grid.make_filmstrips([frames(4, "red")], [text]) for text in ("red", "Москва красный " * 100))
    assert short.width == long.width == 4 * CELL
    assert 3 * 12 < long.height - short.height < 3 * 20  # three more lines
    assert is_blank(pixels(long)[:, -8:]) and is_blank(pixels(long)[-8:])
    assert (pixels(long)[-8 - 128 : -8, 8 : 8 + 128] == (255, 0, 0)).all()


def test_there_must_be_as_many_prompts_as_images():
    with pytest.raises(ValueError, match="zip"):
        image_grid.make_filmstrips([frames(2, "red")] * 3, ["one", "two"])


def test_printable_escapes_control_characters():
    assert image_grid.printable("a\x1b[31mred \u202eb\n\t c\x00") == r"a\u001b[31mred \u202eb c\u0000"
    assert image_grid.printable("Café 中 😀") == "Café 中 😀"
