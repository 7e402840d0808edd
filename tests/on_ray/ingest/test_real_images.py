"""The main job on real photographs and real captions: COCO and CC12M, served on loopback."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import web
from PIL import Image

from emage import config, tokenizers
from emage.config import IngestConfig, TrainConfig
from emage.data.images import decode_image
from emage.data.ingest.captions.caption_cleaning import normalise
from emage.data.ingest.captions.caption_rules import drop_reason
from emage.inference.pipeline import Emage
from emage.on_ray.ingest import driver as ingest
from emage.on_ray.training import driver as train

pytestmark = [pytest.mark.faults, pytest.mark.ray]

NUM_COCO, NUM_CC12M = 159, 32


def read_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {Path(member.name).name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


@pytest.fixture(scope="module")
def pairs(real_data) -> list[tuple[str, bytes, str]]:
    """Return (name, JPEG, caption) of every real image."""
    coco = json.loads((real_data / "coco_captions_val2017.json").read_text())
    caption_of = {f"{row['image_id']:012d}": row["caption"] for row in reversed(coco["annotations"])}
    photographs = read_tar(real_data / "coco_val2017_159.tar")
    found = [(name, data, caption_of[Path(name).stem]) for name, data in photographs.items() if name.endswith(".jpg")]
    files = read_tar(real_data / "cc12m_32.tar")
    found += [
        (name, data, files[str(Path(name).with_suffix(".txt"))].decode())
        for name, data in files.items()
        if name.endswith(".jpg")
    ]
    assert len(found) == NUM_COCO + NUM_CC12M
    return found


@pytest.fixture(scope="module")
def output(ray_cluster, pairs, tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("real")
    pages: dict[str, web.Page] = {f"/{name}": data for name, data, _ in pairs}
    with web.serving(pages) as address:
        urls = [f"{address}/{name}" for name, _, _ in pairs]
        pq.write_table(pa.table({"url": urls, "caption": [caption for *_, caption in pairs]}), folder / "urls.parquet")
        settings = config.preset(
            IngestConfig,
            "tiny",
            output=str(folder / "out"),
            source={"table": str(folder / "urls.parquet"), "dataset": "real"},
            download={"shard_rows": 100},
            mlflow={"enabled": False},
        )
        ingest.ingest(settings)
    yield folder / "out"


def test_every_pair_is_accounted_for(output, pairs):
    report = json.loads((output / "ingest_report.json").read_text())
    rejected = [caption for *_, caption in pairs if drop_reason(normalise(caption))]
    assert report["rows_in"] == NUM_COCO + NUM_CC12M
    assert report["failed"] == {}
    assert sum(report["rejected"].values()) == len(rejected) <= 10
    assert report["written"] == report["rows_in"] - len(rejected)


def test_sizes_captions_and_checksums_are_those_of_the_files(output, pairs):
    rows = {row["url"].rsplit("/", 1)[1]: row for row in pq.read_table(output / "tokens").to_pylist()}
    for name, data, caption in pairs:
        if drop_reason(normalise(caption)):
            continue
        with Image.open(io.BytesIO(data)) as image:
            assert {rows[name]["width"], rows[name]["height"]} == set(image.size)
        assert rows[name]["caption"] == normalise(caption)
        assert rows[name]["sha256"] == hashlib.sha256(data).hexdigest()


def test_tokens_are_those_of_the_images_and_decode_to_them(output, pairs):
    """The demo's tokenizer was trained on shapes: it decodes a photograph to flat patches, but to the nearest ones."""
    tokenizer = tokenizers.load("vqgan-demo-f8-512")
    table = pq.read_table(output / "tokens")
    originals = {name: data for name, data, _ in pairs}
    names = [url.rsplit("/", 1)[1] for url in table["url"].to_pylist()]
    square = [decode_image.make_square_jpeg(originals[name], 64, min_size=16, max_pixels=10**8).jpeg for name in names]
    pixels = torch.from_numpy(np.stack([decode_image.decode_pixels(data) for data in square])).permute(0, 3, 1, 2) / 255
    ids = torch.tensor(np.stack(table["tokens"].to_numpy()).astype(np.int64))
    assert (tokenizer.encode(pixels) == ids).float().mean() > 0.999  # another batch size may round differently
    decoded = tokenizer.decode(ids)
    own = (decoded - pixels).abs().mean(dim=(1, 2, 3))
    other = (decoded - pixels.roll(1, dims=0)).abs().mean(dim=(1, 2, 3))
    assert (own < other).float().mean() > 0.9


def test_a_model_trains_on_them_and_generates(output, pairs, tmp_path):
    settings = config.preset(
        TrainConfig,
        "tiny",
        data={"path": str(output / "tokens")},
        run={"output": str(tmp_path / "run"), "cpus_per_worker": 1},
        mlflow={"enabled": False},
    )
    report = train.train(settings)
    pipe = Emage.from_pretrained(report["model"], device="cpu")
    assert pipe.metadata["step"] == 20 and pipe.metadata["data"]["rows"] == pq.read_table(output / "tokens").num_rows
    pipe.generate(pairs[0][2], seed=7)[0].save(tmp_path / "image.png")
    with Image.open(tmp_path / "image.png") as image:
        assert image.size == (64, 64) and image.format == "PNG"
