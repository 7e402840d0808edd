"""Pillow images of any mode -> 8-bit RGB over white, or RGBA: what ingest, evaluation, serving and inpainting use."""

import numpy as np
from PIL import Image

# The ranges that images of wide grey values use; which one, their files do not say.
_GREY_RANGES = (1.0, 255.0, 65_535.0, 2.0**32 - 1)


def to_rgb(image: Image.Image) -> Image.Image:
    """Return the image in RGB, transparent parts over white."""
    return over_white(with_alpha(image))


def to_grey(image: Image.Image) -> Image.Image:
    """Return the image in 8-bit grey; its transparency does not count."""
    return _eight_bit(image).convert("L")


def with_alpha(image: Image.Image) -> Image.Image:
    """Return the image as 8-bit RGBA if any pixel is transparent, else as RGB."""
    image = _eight_bit(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode in ("La", "RGBa"):  # colours multiplied by alpha: Pillow converts these to one other mode alone
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    image = image.convert("RGBA")
    return image if image.getchannel("A").getextrema() != (255, 255) else image.convert("RGB")


def over_white(image: Image.Image) -> Image.Image:
    """Return an RGBA image over white, in RGB; an RGB image as it is."""
    if image.mode == "RGB":
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """Return the image, grey of more than 8 bits scaled down: Pillow alone would clip it."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode.startswith("I;16"):
        grey = (values >> 8).astype(np.uint8)
    else:
        with np.errstate(invalid="ignore"):  # NaN
            grey = _scaled(values.astype(np.float64), is_float=image.mode == "F")
    result = Image.fromarray(grey)
    if isinstance(see_through := image.info.get("transparency"), int):  # a PNG's one transparent value
        result.putalpha(Image.fromarray(np.where(values == see_through, 0, 255).astype(np.uint8)))
    return result


def _scaled(values: np.ndarray, is_float: bool) -> np.ndarray:
    """Return grey values as uint8: the range is the smallest of the usual ones that holds the largest value."""
    values = np.where(np.isfinite(values), values, 0.0)
    largest = values.max(initial=0.0)
    top = next((top for top in _GREY_RANGES[0 if is_float else 1 :] if largest <= top), largest)
    return (values * (255.0 / top)).round().clip(0, 255).astype(np.uint8)
