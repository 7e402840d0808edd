"""Fine-tune the shipped model on new wording: "X on top of Y" in place of "X above Y".

python examples/fine_tune.py       # a minute on two cores; writes fine_tuned/ and fine_tuned.png
"""

from pathlib import Path

import pyarrow.parquet as pq
import torch

import emage
from emage import tokenizers
from emage.config import TrainConfig, preset
from emage.data import shapes
from emage.model import checkpoint
from emage.on_ray.training.driver import train
from emage.reproduce.shapes_dataset import token_rows
from emage.utils import image_grid

FOLDER, PROMPT = Path("fine_tuned"), "a small red circle on top of a large blue square"

# 1. Images and captions -> a token table. (emage ingest makes one of a table of URLs.)
scenes = [scene for scene in shapes.sample_train_scenes(1_000, seed=1) if " above " in scene.caption]
captions = [scene.caption.replace(" above ", " on top of ") for scene in scenes]
tokenizer = tokenizers.load(tokenizers.DEMO)
pixels = torch.from_numpy(shapes.render_many(scenes, seed=1)).permute(0, 3, 1, 2).float() / 255  # (n,3,64,64)
(FOLDER / "tokens").mkdir(parents=True, exist_ok=True)
table = token_rows(tokenizer.encode(pixels).numpy(), captions, checkpoint.describe(tokenizer))
pq.write_table(table, FOLDER / "tokens" / "00000.parquet")

# 2. Train, from the shipped model's weights.
run = {"output": str(FOLDER / "run"), "prompts": [PROMPT]}
data, optim, objective = {"path": str(FOLDER / "tokens")}, {"steps": 60, "lr": 5e-4}, {"warm_start": 0.0}
report = train(preset(TrainConfig, "demo", init="demo", data=data, optim=optim, objective=objective, run=run))

# 3. Both models on the new wording, the same seeds.
pipes = [emage.Emage.from_pretrained(name) for name in ("demo", report["model"])]
images = [image for pipe in pipes for image in pipe.generate([PROMPT] * 4, seed=range(4))]
image_grid.make_grid(images, ["before"] * 4 + ["after"] * 4, columns=4).save("fine_tuned.png")
