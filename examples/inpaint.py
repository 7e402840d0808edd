"""Regenerate a part of an image: the tokens under the mask are generated again, all others stay.

python examples/inpaint.py         # 5 seconds on a CPU; writes inpainted.png
"""

from PIL import Image, ImageDraw

import emage
from emage.utils import image_grid

pipe = emage.Emage.from_pretrained("demo")
before = pipe.generate("a small red circle above a large blue square", seed=7)[0]

# White is regenerated. A token is 8 x 8 pixels here: the mask grows to whole tokens.
mask = Image.new("L", before.size, "black")
ImageDraw.Draw(mask).rectangle((0, 0, before.width, before.height // 2 - 1), fill="white")

after = pipe.inpaint(before, mask, "a small green circle above a large blue square", seed=7)
image_grid.make_grid([before, mask, after], ["before", "mask", "after"], columns=3).save("inpainted.png")
print("inpainted.png: before, mask, after")
