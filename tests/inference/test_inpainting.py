"""Images and masks of any kind, prepared for a model of 4x4 tokens of 8 px. It needs no network."""

import numpy as np
import pytest
from PIL import Image

from emage.inference.inpainting import InpaintingInput, prepare_inpainting
from emage.utils.errors import InputError

SIZE = (32, 32)
WHITE_CORNER = Image.new("L", SIZE)
WHITE_CORNER.paste(255, (0, 0, 8, 8))


def prepare(image: Image.Image, mask: Image.Image = WHITE_CORNER) -> InpaintingInput:
    return prepare_inpainting(image, mask, grid=(4, 4), stride=8)


def shown(image: Image.Image) -> np.ndarray:
    """Return the image at the model's size as (32, 32, 3) int."""
    return (prepare(image).pixels[0] * 255).round().int().permute(1, 2, 0).numpy()


def test_transparent_parts_are_white_whatever_colour_they_hide():
    image = Image.new("RGBA", SIZE, (0, 200, 0, 0))
    image.paste((10, 20, 30, 255), (16, 0, 32, 32))
    assert (shown(image)[:, :16] == 255).all() and (shown(image)[:, 16:] == (10, 20, 30)).all()
    palette = Image.new("P", SIZE, 1)
    palette.putpalette([0, 0, 0, 10, 20, 30])
    palette.paste(0, (0, 0, 16, 32))
    palette.info["transparency"] = 0
    assert (shown(palette)[:, :16] == 255).all() and (shown(palette)[:, 16:] == (10, 20, 30)).all()


@pytest.mark.parametrize(
    "values",
    [
        np.full(SIZE, 0.4, np.float32),
        np.full(SIZE, 102, np.int32),
        np.full(SIZE, 102 * 257, np.uint16),
        np.full(SIZE, 102, np.uint8),
    ],
    ids=lambda values: str(values.dtype),
)
def test_grey_of_any_depth_is_the_grey_that_it_shows(values: np.ndarray):
    assert (shown(Image.fromarray(values)) == 102).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P", "I", "F", "CMYK"])
def test_a_mask_of_any_mode_marks_where_it_is_white(mode: str):
    mask = WHITE_CORNER.convert("RGB").convert(mode) if mode == "CMYK" else WHITE_CORNER.convert(mode)
    assert prepare(Image.new("RGB", SIZE), mask).masked.tolist() == [True] + 15 * [False]


def test_a_mask_of_floats_up_to_one():
    mask = Image.fromarray(np.asarray(WHITE_CORNER).astype(np.float32) / 255)
    assert prepare(Image.new("RGB", SIZE), mask).masked.tolist() == [True] + 15 * [False]


def test_a_mask_outside_the_centre_says_where_it_is_white_and_what_is_kept():
    image, mask = Image.new("RGB", (400, 100)), Image.new("L", (400, 100))
    mask.paste(255, (10, 20, 60, 80))
    with pytest.raises(InputError) as caught:
        prepare(image, mask)
    assert str(caught.value) == (
        "the mask is white only outside the centre of the image, which alone is kept: white from x=10, y=20 to x=59, "
        "y=79, kept from x=150, y=0 to x=249, y=99; crop image and mask to the part that you want"
    )
    with pytest.raises(InputError, match="kept from x=0, y=150 to x=99, y=249"):
        prepare(image.transpose(Image.Transpose.ROTATE_90), mask.transpose(Image.Transpose.ROTATE_90))


def test_a_black_mask():
    with pytest.raises(InputError, match="the mask is black everywhere: paint white what is to be regenerated"):
        prepare(Image.new("RGB", SIZE), Image.new("L", SIZE))
