"""Part of benchmarks/nodes.py: the stages of an ingest, training and evaluation, their inputs and their progress."""

import functools
import http.server
import re
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from nodes_cluster import Program, Stage, finish, simulated
from PIL import Image

from emage.data import shapes
from emage.evaluation import image_shards
from emage.training import step_log
from emage.utils import manifest

SHARD_ROWS = 100
STEPS, CHECKPOINT_EVERY = 240, 40  # training steps
CAPTIONS = 1_024


class Inputs(NamedTuple):
    """Inputs of the stages."""

    folder: Path
    table: Path  # URLs of images on loopback
    requests: Counter[str]  # number of requests by path
    ingested: Path  # a finished ingest
    num_rows: int


@contextmanager
def prepared(folder: Path, num_rows: int) -> Iterator[Inputs]:
    """Render images, serve them over loopback while the block runs, and ingest them once."""
    scenes, requests = shapes.sample_train_scenes(num_rows, seed=5), Counter[str]()
    (folder / "www").mkdir()
    for number, pixels in enumerate(shapes.render_many(scenes, seed=5)):
        Image.fromarray(pixels).save(folder / "www" / f"{number}.png")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            requests[self.path] += 1
            super().do_GET()

        def log_message(self, *_: Any) -> None: ...

    handler = functools.partial(Handler, directory=str(folder / "www"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = [f"http://127.0.0.1:{server.server_port}/{number}.png" for number in range(num_rows)]
        pq.write_table(pa.table({"url": urls, "caption": [scene.caption for scene in scenes]}), folder / "urls.parquet")
        inputs = Inputs(folder, folder / "urls.parquet", requests, folder / "ingested", num_rows)
        with simulated() as nodes:
            nodes.add(num_cpus=4)
            with Program(ingest(inputs, "all")(inputs.ingested), nodes.address) as program:
                finish(program)
        yield inputs
        server.shutdown()


def ingest(inputs: Inputs, stage: str) -> Callable[[Path], list[str]]:
    """Return a function that returns the command of a stage of an ingest for an output folder."""
    settings = f"""
        stage={stage} download.shard_rows={SHARD_ROWS} download.threads=4 download.shards_in_flight=2
        tokenize.num_actors=2 shuffle.rows_per_file=4 shuffle.row_group_rows=4 mlflow.enabled=false
    """
    return lambda output: ["ingest", "tiny", f"source.table={inputs.table}", f"output={output}", *settings.split()]


def outputs(inputs: Inputs, name: str, *parts: str) -> Callable[[str], Path]:
    """Return a function that makes new output folders with these folders of the finished ingest in them."""

    def make(which: str) -> Path:
        output = inputs.folder / f"{name}-{which}"
        for part in parts:
            shutil.copytree(inputs.ingested / part, output / part)
        if parts:
            shutil.copy(inputs.ingested / "run.json", output)
        inputs.requests.clear()
        return output

    return make


def count(pattern: str) -> Callable[[Path], int]:
    """Return a function that counts the files of an output that match the pattern."""
    return lambda output: len(list(output.glob(pattern)))


def digests(pattern: str) -> Callable[[Path], dict[str, str]]:
    """Return a function that returns the sha256 of the files of an output that match the pattern, by path."""
    return lambda output: {str(path.relative_to(output)): manifest.sha256(path) for path in output.glob(pattern)}


def by_shards(inputs: Inputs, name: str, made: str, *parts: str, **rest: Any) -> Stage:
    """Return a stage of an ingest that writes a folder of shards from these folders of the ingest."""
    return Stage(
        unit="rows",
        total=inputs.num_rows,
        command=ingest(inputs, name),
        outputs=outputs(inputs, name, *parts),
        done=count(f"{made}/*/manifest.json"),
        is_time=lambda done: done >= inputs.num_rows // SHARD_ROWS // 3,
        result=digests(f"{made}/*/*.parquet"),
        **rest,
    )


def download(inputs: Inputs) -> Stage:
    """Return the stage `download`; each image that is requested twice was downloaded twice."""

    def requested_again(*_: Any) -> str:
        return f"{sum(times - 1 for times in inputs.requests.values())}"

    return by_shards(inputs, "download", "shards", "urls", worker="ray::download_round", twice=requested_again)


def tokenize(inputs: Inputs) -> Stage:
    """Return the stage `tokenize`; it prints how many rows it tokenizes again."""

    def tokenized_again(_: Path, printed: str) -> str:
        rows = sum(map(int, re.findall(r"(\d+) rows are tokenized again", printed)))
        return f"{rows}, and those in progress"

    rest = {"worker": "ray::MapBatches", "twice": tokenized_again, "node": {"num_cpus": 4}}
    return by_shards(inputs, "tokenize", "tokenized", "urls", "shards", **rest)


def shuffle(inputs: Inputs) -> Stage:
    """Return the stage `shuffle`."""
    return Stage(
        unit="files",
        total=inputs.num_rows // 4,
        worker="ray::_write_file",
        command=ingest(inputs, "shuffle"),
        outputs=outputs(inputs, "shuffle", "urls", "shards", "tokenized"),
        done=lambda output: sum(count(f"{folder}/*-of-*.parquet")(output) for folder in ("shuffle/*/*", "tokens")),
        is_time=lambda done: done >= inputs.num_rows // 20,
        twice=lambda *_: "1 at most",  # one file is being written, with two CPUs
        result=digests("tokens/*.parquet"),
    )


def train(inputs: Inputs) -> Stage:
    """Return a training on two nodes, one of which is lost between two checkpoints."""
    settings = f"""
        optim.steps={STEPS} optim.micro_batch_size=4 run.num_workers=2 run.cpus_per_worker=1 run.zero_stage=1
        run.checkpoint_every={CHECKPOINT_EVERY} run.sample_every={STEPS} model.width=32 model.depth=1
        mlflow.enabled=false
    """
    paths = f"data.path={inputs.ingested / 'tokens'}"

    def repeated(_: Path, printed: str) -> str:
        began = int(re.findall(r"resuming from step (\d+)", printed)[-1])
        return f"{lost_at[-1] - began}"

    lost_at: list[int] = []

    def is_time(done: int) -> bool:
        is_half_way = done > CHECKPOINT_EVERY and done % CHECKPOINT_EVERY >= CHECKPOINT_EVERY // 2
        if is_half_way:  # between two checkpoints
            lost_at.append(done)
        return is_half_way

    return Stage(
        unit="steps",
        total=STEPS,
        worker="RayTrainWorker",
        command=lambda output: ["train", "tiny", paths, f"run.output={output}", *settings.split()],
        outputs=outputs(inputs, "train"),
        done=lambda output: step_log.last_step(output / "steps.jsonl"),
        is_time=is_time,
        twice=repeated,
        result=lambda output: manifest.read_json(output / "model" / "manifest.json")["files"]["model.safetensors"],
        node={"num_cpus": 1},
        num_nodes=2,
        added={"num_cpus": 1},
    )


def evaluate(inputs: Inputs) -> Stage:
    """Return an evaluation of the shipped model."""
    captions = inputs.folder / "captions.txt"
    captions.write_text("".join(f"{scene.caption}\n" for scene in shapes.sample_held_out_scenes(CAPTIONS, 0)))
    settings = f"""
        candidates=2 limit={CAPTIONS} num_actors=2 batch_size=32 sampling.steps=4 metrics=[shapes] mlflow.enabled=false
    """
    paths = ["checkpoint=demo", f"captions={captions}"]
    return Stage(
        unit="images",
        total=2 * CAPTIONS,
        worker="ray::EvaluationActor",
        command=lambda output: ["evaluate", "tiny", *paths, f"output={output}", *settings.split()],
        outputs=outputs(inputs, "evaluate"),
        done=count("shards/*.json"),
        is_time=lambda done: done >= 2,
        twice=lambda *_: f"{2 * image_shards.IMAGES_PER_SHARD} at most",  # one work item of each of two actors
        result=digests("pictures/*.tar"),
        added={"num_cpus": 1},
    )


# Keys are names in commands and in the results file.
STAGES = {"download": download, "tokenize": tokenize, "shuffle": shuffle, "train": train, "evaluate": evaluate}
