"""Image shards -> tokenized shards: every row is in one of the two files, also after a kill or lack of memory."""

import io
import os
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from fakes import OUT_OF_MEMORY, LimitedMemory
from PIL import Image
from ray.util.state import list_actors
from ray.util.state.common import ActorState

from emage import tokenizers
from emage.config import TokenizeConfig
from emage.data import schema, shapes
from emage.on_ray.ingest import tokenize_dataset, tokenize_shards
from emage.on_ray.ingest.download import image_shards
from emage.on_ray.ingest.tokenize_workers import Encoder
from emage.utils import manifest
from emage.utils.errors import InputError

SHARDS, ROWS, SIZE = 6, 24, 64
CONFIG = TokenizeConfig(tokenizer="vqgan-demo-f8-512", batch_size=5, gpus_per_actor=0.0)
DATASETS = ("laion", "shapes")
BAD_CAPTIONS = {3: "", 11: "Zwei rote Kreise neben einem blauen Quadrat"}  # index in a shard -> caption
BAD_IMAGES = {7: b"no image", 20: b"\xff\xd8\xff\xe0"}


def jpeg(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_shards(folder: Path, count: int = SHARDS) -> list[dict[str, Any]]:
    """Write image shards as the download does, with the same bad rows in each. Returns all rows."""
    scenes = shapes.sample_train_scenes(count * ROWS, seed=3)
    images = shapes.render_many(scenes, seed=3)
    rows = []
    for i, scene in enumerate(scenes):
        number, index = divmod(i, ROWS)
        rows.append(
            {
                "key": f"{number:05d}{index:04d}",
                "dataset": DATASETS[i % len(DATASETS)],
                "url": f"http://a.test/{i}.jpg",
                "caption": BAD_CAPTIONS.get(index, scene.caption),
                "image": BAD_IMAGES.get(index) or jpeg(images[i]),
                "width": SIZE,
                "height": SIZE,
                "sha256": "",
            }
        )
    for number in range(count):
        shard = folder / f"{number:05d}"
        shard.mkdir(parents=True)
        table = pa.Table.from_pylist(rows[number * ROWS : (number + 1) * ROWS], schema.IMAGE_SCHEMA)
        pq.write_table(table, shard / "p")
        outputs = {"p": manifest.sha256(shard / "p")}
        values = {"rows": ROWS, "written": ROWS, "failed": {}, "pictures": ["p"], "outputs": outputs}
        manifest.write_json(shard / manifest.NAME, values)
    total = {"shards": count, "rows": count * ROWS, "written": count * ROWS, "failed": {}, "passes": 1}
    manifest.write_json(folder / manifest.NAME, total)
    return rows


def run(shards: Path, folder: Path, config: TokenizeConfig = CONFIG) -> dict[str, Any]:
    info = tokenize_shards.describe(config, SIZE)
    return tokenize_shards.run(config, info, image_size=SIZE, shards=shards, folder=folder)


def files(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): manifest.sha256(file) for file in sorted(folder.glob("*/*"))}


@pytest.fixture(scope="module")
def tokenized(ray_cluster, tmp_path_factory) -> tuple[Path, list[dict[str, Any]], dict[str, Any]]:
    """Return the folder with shards/ and tokenized/, all rows, and the stage's manifest."""
    folder = tmp_path_factory.mktemp("tokenizing")
    rows = write_shards(folder / "shards")
    return folder, rows, run(folder / "shards", folder / "tokenized")


@pytest.mark.ray
def test_every_row_is_written_or_rejected_with_its_drop_reason(tokenized):
    folder, rows, values = tokenized
    reasons = {3: "empty", 11: "foreign_language", 7: "not_an_image", 20: "decode_error"}
    bad = {row["key"]: reasons[int(row["key"][5:])] for row in rows if int(row["key"][5:]) in reasons}
    written = pq.read_table(sorted((folder / "tokenized").glob("*/tokens.parquet"))).to_pylist()
    rejected = pq.read_table(sorted((folder / "tokenized").glob("*/rejected.parquet")))
    assert rejected.schema.names == ["key", "dataset", "url", "caption", "cause"]
    assert {row["key"]: row["cause"] for row in rejected.to_pylist()} == bad
    by_key = {row["key"]: row for row in rows}
    for row in (*written, *rejected.to_pylist()):
        before = by_key.pop(row["key"])  # a second time would be a KeyError
        assert all(row[name] == before[name] for name in ("dataset", "url", "caption"))
    assert not by_key
    assert values["rows"] == len(rows) and values["written"] == len(written) == len(rows) - len(bad)
    assert values["rejected"] == {"empty": SHARDS, "foreign_language": SHARDS}
    assert values["failed"] == {"not_an_image": SHARDS, "decode_error": SHARDS}
    assert values["datasets"] == Counter(row["dataset"] for row in written)
    assert set(values["datasets"]) == set(DATASETS)


@pytest.mark.ray
def test_manifests_of_the_shards_add_up_to_that_of_the_stage(tokenized):
    folder, _, values = tokenized
    shards = [image_shards.read_manifest(folder / "tokenized", number) for number in range(SHARDS)]
    for name in ("rows", "written"):
        assert sum(shard[name] for shard in shards) == values[name]
    for name in ("rejected", "failed", "datasets"):
        assert sum((Counter(shard[name]) for shard in shards), Counter()) == values[name]
    for number, shard in enumerate(shards):
        paths = {name: image_shards.shard_folder(folder / "tokenized", number) / name for name in shard["outputs"]}
        assert shard["outputs"] == {name: manifest.sha256(path) for name, path in paths.items()}
        assert pq.read_metadata(paths["rejected.parquet"]).num_rows == shard["rows"] - shard["written"]


@pytest.mark.faults
@pytest.mark.ray
def test_finished_shards_are_counted_and_not_made_again(tokenized, tmp_path, monkeypatch):
    """The bytes and sums are the same with several Ray data sets and another batch size."""
    folder, _, values = tokenized
    target = tmp_path / "tokenized"
    monkeypatch.setattr(tokenize_dataset, "SHARDS_PER_DATASET", 4)
    run(folder / "shards", target, replace(CONFIG, batch_size=7, num_actors=2))
    assert files(target) == files(folder / "tokenized")
    (target / "00004" / manifest.NAME).unlink()
    before = {number: (target / f"{number:05d}").stat().st_mtime_ns for number in range(SHARDS)}
    assert run(folder / "shards", target) == values
    assert files(target) == files(folder / "tokenized")
    after = {number: (target / f"{number:05d}").stat().st_mtime_ns for number in range(SHARDS)}
    assert {number for number in range(SHARDS) if before[number] != after[number]} == {4}
    assert tokenize_shards.finished(folder / "shards", target) == manifest.read_json(target / manifest.NAME)


@pytest.mark.ray
def test_another_tokenizer_or_other_caption_rules_need_another_folder(tokenized):
    folder, _, _ = tokenized
    info = tokenize_shards.describe(CONFIG, SIZE)
    paths = {"shards": folder / "shards", "folder": folder / "tokenized"}
    before = files(folder / "tokenized")
    tokenizer, no_rules = replace(info, sha256="0" * 64), replace(CONFIG, caption_rules=False)
    for config, other in ((CONFIG, tokenizer), (no_rules, info), (replace(CONFIG, language="en,de"), info)):
        with pytest.raises(InputError, match="00000 was made by another tokenizer or with other caption rules"):
            tokenize_shards.run(config, other, image_size=SIZE, **paths)
    assert files(folder / "tokenized") == before


@pytest.mark.ray
def test_not_finished_if_an_image_shard_has_changed_since(tokenized, tmp_path):
    folder, _, _ = tokenized
    shards = shutil.copytree(folder / "shards", tmp_path / "shards")
    assert tokenize_shards.finished(shards, folder / "tokenized") == manifest.read_json(
        folder / "tokenized" / manifest.NAME
    )
    changed = shards / "00002" / manifest.NAME
    manifest.write_json(changed, manifest.read_json(changed) | {"outputs": {"p": "0" * 64}})
    assert tokenize_shards.finished(shards, folder / "tokenized") is None


@pytest.mark.ray
def test_decoding_and_encoding_are_stages_of_their_own(tokenized):
    """If Ray merged them into one stage, the accelerator would wait for decoding."""
    folder, _, _ = tokenized
    dataset = tokenize_dataset._make_dataset(CONFIG, [0, 1], SIZE, folder / "shards").materialize()
    stages = [line.split(":")[0] for line in dataset.stats().splitlines() if line.startswith("Operator")]
    assert stages == ["Operator 0 FromItems", "Operator 1 MapBatches(Reader)", "Operator 2 MapBatches(Encoder)"]


@pytest.mark.ray
def test_actors_leave_cpus_for_decoding(ray_cluster):
    cores = os.cpu_count() or 1  # of which the cluster of the tests counts 4
    assert tokenize_dataset.encoder_threads(replace(CONFIG, num_actors=1)) == max(1, min(4, cores) // 2)
    assert tokenize_dataset.encoder_threads(replace(CONFIG, num_actors=3)) == 1
    assert tokenize_dataset.encoder_threads(replace(CONFIG, gpus_per_actor=1.0)) == 0
    with pytest.raises(InputError, match=r"tokenize.num_actors=4 leaves none of 4 CPUs"):
        tokenize_dataset.encoder_threads(replace(CONFIG, num_actors=4))


@pytest.mark.faults
@pytest.mark.ray
def test_an_actor_killed_in_the_middle_drops_nothing(tokenized, tmp_path, monkeypatch, caplog):
    folder, _, values = tokenized
    monkeypatch.setattr(tokenize_dataset, "BLOCK_BYTES", 1)  # a task per image
    killed: list[ActorState] = []
    killer = threading.Thread(target=_kill_an_actor, args=(tmp_path / "tokenized", killed))
    killer.start()
    made = run(folder / "shards", tmp_path / "tokenized", replace(CONFIG, batch_size=1))
    killer.join()
    assert len(killed) == 1
    (record,) = [record for record in caplog.records if tokenize_dataset.LOST_ENCODERS in record.getMessage()]
    assert "rows are tokenized again" in record.getMessage(), "it was killed after its work was done"
    assert made == values and files(tmp_path / "tokenized") == files(folder / "tokenized")


def this_cluster() -> str:
    """Return the address of this test's cluster: actors of others on this machine must not be killed."""
    return ray.get_runtime_context().gcs_address


def _kill_an_actor(folder: Path, killed: list[ActorState]) -> None:
    """Send SIGKILL to the encoder's process when the first shard exists."""
    deadline = time.monotonic() + 120
    while not list(folder.glob("[0-9]*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    for actor in list_actors(address=this_cluster(), filters=[("state", "=", "ALIVE")]):
        if "Encoder" in actor.class_name:
            os.kill(actor.pid, signal.SIGKILL)
            killed.append(actor)


def make_encoder(room: int, batch_size: int) -> tuple[Encoder, LimitedMemory]:
    made = Encoder(replace(CONFIG, batch_size=batch_size), SIZE, threads=1)
    cramped = LimitedMemory(made.tokenizer.encode, room)
    made.tokenizer.encode = cramped
    return made, cramped


def test_out_of_memory_halves_the_batch_and_changes_no_token():
    images = shapes.render_many(shapes.sample_train_scenes(11, seed=4), seed=4)
    batch = pa.table({"data": pa.array([images.tobytes(), b"", images[:7].tobytes()], pa.binary())})
    whole, _ = make_encoder(room=11, batch_size=11)
    cramped, device = make_encoder(room=3, batch_size=11)
    expected = whole(batch)["data"].to_pylist()
    assert cramped(batch)["data"].to_pylist() == expected
    assert device.calls == [11, 6, 3, 3, 3, 2, 3, 3, 1]
    alone = tokenizers.load(CONFIG.tokenizer).encode(torch.from_numpy(images).permute(0, 3, 1, 2) / 255)
    assert np.frombuffer(expected[0], np.uint16).reshape(11, -1).tolist() == alone.tolist()


@pytest.mark.ray
def test_an_image_that_does_not_fit_alone_is_one_line(tokenized, tmp_path, monkeypatch):
    """The pipeline prints the actor's error, without Ray's stack trace."""
    folder, _, _ = tokenized

    class NoRoom(Encoder):  # a local class, so that it is pickled by value
        def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
            raise OUT_OF_MEMORY

    monkeypatch.setattr(tokenize_dataset, "Encoder", NoRoom)
    with pytest.raises(InputError) as raised:
        run(folder / "shards", tmp_path / "tokenized")
    text = str(raised.value)
    assert text.startswith("not even a batch of one fits into memory") and "\n" not in text
    assert not list((tmp_path / "tokenized").iterdir())
