"""Overhead of the tokenizing stage over bare encoding, or (`scale`) speed and memory of the other stages of an ingest.

python benchmarks/ingest.py tokenize                  # demo tokenizer, 64x64: 2 minutes on two cores, ratio 0.9 or more
python benchmarks/ingest.py tokenize tokenizer=vqgan-gumbel-f8-8192 pictures=24 batch_size=1 shard_rows=1  # 5 minutes
python benchmarks/ingest.py tokenize tokenizer=vqgan-gumbel-f8-8192 pictures=20000 gpus=1
python benchmarks/ingest.py scale                     # rows/s and memory of the other stages: see scale.py

`tokenize` prints images/s of a bare encode loop in this process and of the real stage (tokenize_shards.run on Ray:
decoding in tasks, encoding in one actor, tokenized shards on disk), in turns, with the same images, batch size, threads
and float32. The bare loop gets decoded images, the stage JPEGs. The goal is a ratio of 0.9. Two ratios are printed:
`whole`, and `steady`, from the first quarter of the images on. The latter leaves out the start-up until the first
tokens (Ray starts the actor, which imports PyTorch and loads the weights; the first block is decoded): it takes seconds
in a run of days.

Without a GPU, decoding and encoding share the cores: half of them encode, as many as the bare loop uses, the others
decode. The ratio then still shows whether the encoder waits for data, if nothing else runs on the machine.

A published tokenizer gets random weights: the cost of an image does not depend on them. No network is used.
"""

import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from emage import config, tokenizers
from emage.config import TokenizeConfig
from emage.config.fields import setting
from emage.data import schema, shapes
from emage.data.images import decode_image
from emage.on_ray import launch, tasks
from emage.on_ray.ingest import tokenize_dataset, tokenize_shards
from emage.on_ray.ingest.download import image_shards
from emage.tokenizers.dvae import DVAE, DVAEConfig
from emage.tokenizers.vqgan import VQGAN
from emage.utils import manifest
from emage.utils.errors import InputError, exit_on_bad_input

SAME_BLOCK_S = 0.01  # tokens that arrive within this time are from one block
NUM_DISTINCT = 64  # images that are rendered; further ones are copies


@dataclass(frozen=True)
class TokenizeBenchmark:
    """Settings: images/s of the tokenizing stage compared with a bare encode loop."""

    tokenizer: str = setting(tokenizers.DEMO, "Name of the tokenizer.", choices=tuple(tokenizers.TOKENIZERS))
    pictures: int = setting(16_000, "Images that are tokenized.", unit="images", minimum=1)
    batch_size: int = setting(64, "Images at a time.", unit="images", minimum=1)
    shard_rows: int = setting(10_000, "Rows per shard.", unit="rows", minimum=1)
    repeat: int = setting(3, "Rounds, of which the medians are printed.", unit="rounds", minimum=1)
    gpus: float = setting(0.0, "GPUs of the one actor; 0: on CPUs.", unit="GPUs", minimum=0)


def main(argv: Sequence[str]) -> None:
    """Run the benchmark; exit with 2 and one line on bad input."""
    with exit_on_bad_input():
        if argv and argv[0] == "scale":  # in processes of its own, to see each size's memory
            sys.exit(subprocess.run([sys.executable, Path(__file__).with_name("scale.py"), *argv[1:]]).returncode)
        if not argv or argv[0] != "tokenize":
            raise InputError("the first word is one of: tokenize, scale")
        tokenize(config.parse(TokenizeBenchmark, argv[1:]))


# --- tokenize ---------------------------------------------------------------------------------------------------------


def tokenize(benchmark: TokenizeBenchmark) -> None:
    """Check the GPUs, and compare in a temporary folder."""
    launch.check_gpus(benchmark.gpus, "gpus")
    with tempfile.TemporaryDirectory() as folder:
        compare(benchmark, Path(folder))


def compare(benchmark: TokenizeBenchmark, folder: Path) -> None:
    """Print a line per round, then the medians."""
    config, size = prepare(benchmark, folder)
    launch.start_ray()
    info = tokenize_shards.describe(config, size)
    threads = tokenize_dataset.encoder_threads(config)
    torch.set_num_threads(threads or torch.get_num_threads())
    jpegs = render(min(benchmark.pictures, NUM_DISTINCT), size)
    write_shards(folder / "shards", jpegs, benchmark, size)
    started = time.process_time()
    pixels = np.stack([decode_image.decode_pixels(jpeg) for jpeg in jpegs])
    decoding = (time.process_time() - started) / len(jpegs)
    pixels = pixels[np.arange(benchmark.pictures) % len(jpegs)]
    tokenizer = tokenizers.load(config.tokenizer, config.weights, device="cuda" if benchmark.gpus else "cpu")

    device = torch.cuda.get_device_name() if benchmark.gpus else f"{threads} of {os.cpu_count()} cores"
    print(f"{info.name}, {benchmark.pictures} images of {size}x{size}, batches of {config.batch_size}, {device}")
    print(f"decoding: {1e3 * decoding:.2f} ms per image on one core")
    print(f"{'':8}{'bare':>10}{'whole':>10}{'steady':>10}{'start-up':>12}   ratios")
    rounds = []
    for number in range(benchmark.repeat):
        bare = bare_rate(tokenizer, pixels, config.batch_size)
        whole, steady, start_up = stage_rates(config, info, size, folder)
        rounds.append((bare, whole, steady, start_up, whole / bare, steady / bare))
        print_round(f"round {number + 1}", rounds[-1])
    print_round("median", [statistics.median(column) for column in zip(*rounds, strict=True)])


def print_round(title: str, values: Sequence[float]) -> None:
    bare, whole, steady, start_up, whole_ratio, steady_ratio = values
    rates = f"{bare:8.2f}/s{whole:8.2f}/s{steady:8.2f}/s{start_up:10.1f} s"
    print(f"{title:8}{rates}   whole {whole_ratio:.2f}, steady {steady_ratio:.2f}", flush=True)


def prepare(benchmark: TokenizeBenchmark, folder: Path) -> tuple[TokenizeConfig, int]:
    """Return the stage's settings, and the image size of the tokenizer."""
    config = TokenizeConfig(
        tokenizer=benchmark.tokenizer, batch_size=benchmark.batch_size, gpus_per_actor=benchmark.gpus
    )
    if benchmark.tokenizer == tokenizers.DEMO:
        return config, tokenizers.load(tokenizers.DEMO).config.resolution
    shape = tokenizers.TOKENIZERS[benchmark.tokenizer].config
    made = (DVAE if isinstance(shape, DVAEConfig) else VQGAN)(shape, benchmark.tokenizer)
    tokenizers.save(made, folder / "weights.safetensors")
    return replace(config, weights=str(folder / "weights.safetensors")), shape.resolution


def render(count: int, size: int) -> list[bytes]:
    """Return JPEGs as the download writes them."""
    jpegs = []
    for pixels in shapes.render_many(shapes.sample_train_scenes(count, seed=0), seed=0):
        file = io.BytesIO()
        image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        image.save(file, "JPEG", quality=decode_image.JPEG_QUALITY, subsampling=0)
        jpegs.append(file.getvalue())
    return jpegs


def write_shards(folder: Path, jpegs: list[bytes], benchmark: TokenizeBenchmark, size: int) -> None:
    """Write image shards as the download does."""
    starts = range(0, benchmark.pictures, benchmark.shard_rows)
    for number, start in enumerate(starts):
        rows = [
            {
                "key": f"{number:05d}{i - start:05d}",
                "dataset": "shapes",
                "url": f"http://a.test/{i}.jpg",
                "caption": "a small red circle above a large blue square",
                "image": jpegs[i % len(jpegs)],
                "width": size,
                "height": size,
                "sha256": "",
            }
            for i in range(start, min(start + benchmark.shard_rows, benchmark.pictures))
        ]
        shard = image_shards.shard_folder(folder, number)
        shard.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows, schema.IMAGE_SCHEMA), shard / image_shards.IMAGES)
        counts = {"rows": len(rows), "written": len(rows), "failed": {}}
        outputs = {image_shards.IMAGES: manifest.sha256(shard / image_shards.IMAGES)}
        files = {"pictures": [image_shards.IMAGES], "outputs": outputs}
        manifest.write_json(shard / manifest.NAME, counts | files)
    total = {"rows": benchmark.pictures, "written": benchmark.pictures, "failed": {}, "passes": 1}
    manifest.write_json(folder / manifest.NAME, {"shards": len(starts), **total})


def bare_rate(tokenizer: tokenizers.Tokenizer, pixels: np.ndarray, batch_size: int) -> float:
    """Return images/s of the tokenizer alone, after one warm-up batch; pixels are (n, H, W, 3) uint8."""

    def encode(batch: np.ndarray) -> torch.Tensor:
        on_device = torch.from_numpy(batch).to(next(tokenizer.parameters()).device)
        return tokenizer.encode(on_device.permute(0, 3, 1, 2) / 255).cpu()

    encode(pixels[:batch_size])
    started = time.perf_counter()
    for start in range(0, len(pixels), batch_size):
        encode(pixels[start : start + batch_size])
    return len(pixels) / (time.perf_counter() - started)


class Clock:
    """Replaces the stage's progress bar and records when tokens arrive."""

    def __init__(self) -> None:
        self.arrivals: list[tuple[float, int]] = []

    def update(self, count: int) -> None:
        self.arrivals.append((time.perf_counter(), count))

    @contextmanager
    def progress_bar(self, *_: object):
        yield self

    def steady_rate(self) -> float:
        """Return images/s from the arrival of the first quarter on; NaN if everything arrived in one block."""
        total = np.cumsum([count for _, count in self.arrivals])
        first, last = self.arrivals[int(np.searchsorted(total, total[-1] / 4))][0], self.arrivals[-1][0]
        later = sum(count for moment, count in self.arrivals if moment > first + SAME_BLOCK_S)
        return later / (last - first) if later else float("nan")


def stage_rates(
    config: TokenizeConfig, info: schema.TokenizerInfo, size: int, folder: Path
) -> tuple[float, float, float]:
    """Return images/s of the whole stage, images/s after the start-up, and the seconds of the start-up."""
    shutil.rmtree(folder / "tokenized", ignore_errors=True)
    clock = Clock()
    started = time.perf_counter()
    with mock.patch.object(tasks, "progress_bar", clock.progress_bar):
        made = tokenize_shards.run(config, info, image_size=size, shards=folder / "shards", folder=folder / "tokenized")
    seconds = time.perf_counter() - started
    assert made["written"] == made["rows"]
    return made["written"] / seconds, clock.steady_rate(), clock.arrivals[0][0] - started


if __name__ == "__main__":
    main(sys.argv[1:])
