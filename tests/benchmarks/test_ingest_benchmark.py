"""The benchmark of ingest: its command line, the rate from given arrival times, the shards that it makes."""

import subprocess
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from emage import tokenizers
from emage.data import schema
from emage.data.images import decode_image
from emage.on_ray.ingest.download import image_shards
from emage.utils import manifest

SCRIPT = "ingest.py"


def test_the_steady_rate_leaves_out_start_up_and_the_first_quarter(benchmark):
    """Blocks of 2 x 10 images: the first after 100 s, three at 2 s each, and two at 4 s."""
    clock = benchmark.Clock()
    for moment in (100.0, 102.0, 104.0, 106.0, 110.0, 114.0):
        clock.arrivals += [(moment, 10), (moment + 0.001, 10)]
    assert clock.steady_rate() == pytest.approx(80 / 12, rel=1e-3)  # a quarter has arrived at 102 s
    one = benchmark.Clock()
    one.arrivals = [(5.0, 10), (5.001, 10)]
    assert np.isnan(one.steady_rate())


def test_shards_are_those_of_the_download(benchmark, tmp_path):
    settings = benchmark.TokenizeBenchmark(pictures=7, shard_rows=3)
    jpegs = benchmark.render(5, 32)
    benchmark.write_shards(tmp_path, jpegs, settings, 32)
    assert manifest.read_json(tmp_path / manifest.NAME)["shards"] == 3
    files = [file for number in range(3) for file in image_shards.image_files(tmp_path, number)]
    tables = [pq.read_table(file) for file in files]
    assert [len(table) for table in tables] == [3, 3, 1]
    assert all(table.schema.equals(schema.IMAGE_SCHEMA) for table in tables)
    images = [image for table in tables for image in table["image"].to_pylist()]
    assert [jpegs.index(image) for image in images] == [0, 1, 2, 3, 4, 0, 1]
    assert decode_image.decode_pixels(images[0]).shape == (32, 32, 3)
    assert len({key for table in tables for key in table["key"].to_pylist()}) == 7


def test_the_bare_loop_encodes_every_image(benchmark):
    class Counting(type(tokenizers.load(tokenizers.DEMO))):
        def encode(self, pixels):
            seen.append(len(pixels))
            return super().encode(pixels)

    seen: list[int] = []
    tokenizer = tokenizers.load(tokenizers.DEMO)
    tokenizer.__class__ = Counting
    assert benchmark.bare_rate(tokenizer, np.zeros((10, 64, 64, 3), np.uint8), 4) > 0
    assert seen == [4, 4, 4, 2]  # the first warms up


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the first word is one of: tokenize"),
        (["tokenise"], "the first word is one of: tokenize"),
        (["tokenize", "picture=3"], "unknown key 'picture'; did you mean pictures?"),
        (["tokenize", "pictures=0"], "pictures=0: must be a whole number of at least 1"),
        (["tokenize", "tokenizer=vqgan"], "tokenizer=vqgan: must be one of "),
    ],
)
def test_bad_input_is_one_line(benchmark, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.chaos
def test_the_script_itself(script, tmp_path):
    """As a user starts it, on few images: it prints its numbers, and all images are encoded."""
    command = [sys.executable, str(script), "tokenize", "pictures=40", "batch_size=4", "shard_rows=10", "repeat=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "vqgan-demo-f8-512, 40 images of 64x64, batches of 4" in done.stdout
    line = next(line for line in done.stdout.splitlines() if line.startswith("median"))
    assert line.count("/s") == 3 and "whole" in line and "steady" in line
    assert not list(tmp_path.iterdir())
