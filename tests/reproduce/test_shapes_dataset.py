"""The data set of scale=small: a token table as ingest writes it, held-out captions, reference images."""

from pathlib import Path

import numpy as np
from PIL import Image

from emage import tokenizers
from emage.data import shapes, shapes_checker
from emage.data.images import image_files
from emage.data.token_table import TokenTable
from emage.model import checkpoint
from emage.reproduce import shapes_dataset
from emage.reproduce.shapes_dataset import SmallWorld


def test_the_data_set_of_scale_small(tmp_path: Path):
    shapes_dataset.make(SmallWorld(pictures=20, captions=5, references=7, output=str(tmp_path)))
    table = TokenTable(str(tmp_path / "tokens"), seed=0)
    assert table.num_rows == 20 and table.tokenizer == checkpoint.describe(tokenizers.load(tokenizers.DEMO))
    row = table.batch(0, 20)
    scenes = shapes.sample_train_scenes(20, seed=0)
    assert sorted(row.uid) == list(range(20))
    assert [row.captions[row.uid.index(i)] for i in range(20)] == [scene.caption for scene in scenes]
    # The tokens are those of the images: they decode to the shapes that the captions describe.
    pixels = tokenizers.load(tokenizers.DEMO).decode(row.y, grid=(8, 8))
    drawn = (pixels * 255).round().byte().permute(0, 2, 3, 1).numpy()
    verdicts = [shapes_checker.check(Image.fromarray(one), text) for one, text in zip(drawn, row.captions, strict=True)]
    assert sum(verdict.all_correct for verdict in verdicts) >= 19
    captions = (tmp_path / "captions.txt").read_text().splitlines()
    assert len(captions) == 5 and not set(captions) & set(row.captions)
    files = image_files.find(str(tmp_path / "reference.tar")).files
    squares = np.concatenate([batch.numpy() for batch in image_files.batches(files, 64, 4)])
    assert squares.shape == (7, 3, 64, 64) and squares.std() > 10


def test_a_token_table_of_several_files(tmp_path: Path):
    shapes_dataset.write_table(tmp_path, shapes.sample_train_scenes(5, seed=1), seed=1, files=2, row_group=2)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00000.parquet", "00001.parquet"]
    assert TokenTable(str(tmp_path), seed=0).num_rows == 5
