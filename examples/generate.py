"""Generate images with the shipped model, and show how one of them forms.

python examples/generate.py        # 5 seconds on a CPU; writes grid.png and steps.png
"""

import emage
from emage.utils import image_grid

PROMPTS = ["a small red circle above a large blue square", "a large green star left of a small yellow triangle"]

pipe = emage.Emage.from_pretrained("demo")  # or a checkpoint's folder, or a hub id

# Four candidates per prompt; the one that the model itself finds most likely is returned.
images = pipe.generate(PROMPTS, seed=7, candidates=4, rank="likelihood")
image_grid.make_grid(images, PROMPTS, columns=2).save("grid.png")

# One image per decoding step: all 64 tokens are predicted at once, and more of them are kept each time.
steps = list(pipe.stream(PROMPTS[0], seed=7, steps=16))
image_grid.make_filmstrip(steps).save("steps.png")
print(f"grid.png: {len(images)} images; steps.png: one of them in {len(steps)} decoding steps")
