"""Rows per second and memory of an ingest without downloads: time should be linear in the rows, memory constant.

    python benchmarks/ingest.py scale                                     # 8 minutes on two cores, 20 GB of disk
    python benchmarks/ingest.py scale rows=[100000,1000000] tokens=1024    # the paper's rows

Each size runs in a process and a Ray cluster of its own, through the pipeline's own stages:
    select    a URL table with conditions on its metadata, 3 % exact duplicates -> shards of URLs
    captions  every rule of emage.data.ingest.captions.caption_rules on the rows that are left
    shuffle   tokenized shards (random tokens, 2 % of the images the same) -> the token table
The stages between them (download and tokenize) are replaced by a generator that is not timed. Memory is the peak of the
anonymous memory (which the kernel cannot write back to files) of the driver and of the largest worker.
Prints a table and the ratios between sizes, and writes results/scale-TOKENS.json. Expected: memory at 10M rows within
1.3 times that at 1M.
"""

import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from rich.console import Console
from rich.table import Table

import emage
from emage import config
from emage.config import SelectConfig, ShuffleConfig, SourceConfig
from emage.config.fields import setting
from emage.data import schema
from emage.data.ingest import url_filter
from emage.data.ingest.captions import caption_rules
from emage.on_ray import launch, tasks
from emage.on_ray.ingest import select_urls, shuffle, tokenize_shards
from emage.on_ray.ingest.download import image_shards
from emage.utils import manifest
from emage.utils.errors import exit_on_bad_input

ONE = "one-size"  # the first word of the processes that the script starts
STAGES = ("select", "captions", "shuffle")
MEMORY = ("driver_mb", "worker_mb")
SHARD_ROWS = 10_000
GROUP_ROWS = 250_000  # of the generated table
WORDS = np.array(
    [
        "a",
        "the",
        "red",
        "old",
        "small",
        "wooden",
        "house",
        "dog",
        "tree",
        "street",
        "photo",
        "of",
        "near",
        "under",
        "with",
        "and",
        "two",
        "blue",
    ]
)
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class ScaleBenchmark:
    """Settings: rows/s and memory of an ingest without downloads, on generated tables."""

    rows: tuple[int, ...] = setting(
        (100_000, 1_000_000, 10_000_000), "Rows of each table.", unit="rows", minimum=1, not_empty=True
    )
    tokens: int = setting(256, "Tokens per image; a multiple of 8.", unit="tokens", minimum=8)
    folder: str | None = setting(None, "Folder for the tables. null: the system's folder for temporary files.")

    def problems(self, prefix: str = "") -> Iterator[str]:
        """Yield a message if an image cannot be eight rows of tokens."""
        if self.tokens % 8:
            yield f"{prefix}tokens={self.tokens}: must be a multiple of 8"


def main(argv: Sequence[str]) -> None:
    """Run the benchmark; exit with 2 and one line on bad input."""
    with exit_on_bad_input():
        benchmark = config.parse(ScaleBenchmark, argv)
    results = []
    for rows in benchmark.rows:
        values = [str(rows), str(benchmark.tokens), *([benchmark.folder] if benchmark.folder else [])]
        command = [sys.executable, __file__, ONE, *values]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        results.append(json.loads(output.splitlines()[-1]))
    versions = {"python": platform.python_version(), "ray": ray.__version__, "pyarrow": pa.__version__}
    machine = {"cores": os.cpu_count(), "tokens": benchmark.tokens, **versions}
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"machine": machine, "sizes": results}, indent=2)
    (RESULTS / f"scale-{benchmark.tokens}.json").write_text(text + "\n")
    show(results)


def show(results: list[dict[str, Any]]) -> None:
    """Print a row per size and stage, and ratios between sizes."""
    table = Table("rows", "stage", "seconds", "rows/s", "driver MB", "worker MB")
    for result in results:
        for stage, values in result["stages"].items():
            rate = f"{result['rows'] / values['seconds']:,.0f}"
            memory = [f"{values[name]:.0f}" for name in MEMORY]
            table.add_row(f"{result['rows']:,}", stage, f"{values['seconds']:.1f}", rate, *memory)
        table.add_section()
    console = Console(width=100)
    console.print(table)
    for small, large in itertools.pairwise(results):
        driver, worker = (peak(large, name) / peak(small, name) for name in MEMORY)
        times = [
            f"{name} x{large['stages'][name]['seconds'] / small['stages'][name]['seconds']:.1f}" for name in STAGES
        ]
        console.print(
            f"{small['rows']:,} -> {large['rows']:,} rows: time of {', '.join(times)}; "
            f"peak memory of the driver x{driver:.2f}, of the largest worker x{worker:.2f}"
        )


def peak(result: dict[str, Any], name: str) -> float:
    """Return the peak over all stages: workers are reused by the next stage."""
    return max(values[name] for values in result["stages"].values())


# --- One size --------------------------------------------------------------------------------------------------------


def one(rows: int, num_tokens: int, parent: str | None = None) -> None:
    """Measure one size; print the results as JSON in the last line."""
    folder = Path(tempfile.mkdtemp(prefix="emage-scale-", dir=parent))
    try:
        write_table(folder / "table.parquet", rows)
        launch.start_ray()
        source = SourceConfig(str(folder / "table.parquet"), "generated", where=("similarity>=0.1", "nsfw==UNLIKELY"))
        stages = {}
        with StageMonitor() as stages["select"]:
            made = select_urls.run(
                [source],
                SelectConfig(),
                SHARD_ROWS,
                blocked=url_filter.read_block_lists((), (), ()),
                work=folder / "work",
                folder=folder / "urls",
            )
        files = [str(folder / "urls" / shard["name"]) for shard in made["shards"]]
        with StageMonitor() as stages["captions"]:
            rejected = sum(each("captions", made, files, count_rejected.remote))
        info = schema.TokenizerInfo("generated", "", 8192, (num_tokens // 8, 8))
        tokenized = folder / "tokenized"
        written = sum(each("generate", made, [(str(tokenized), file, info) for file in files], tokenize.remote))
        inputs = {"shards": len(files), "written": written, "tokenizer": vars(info), "input": "0" * 64}
        manifest.write_json(tokenized / manifest.NAME, inputs)
        with StageMonitor() as stages["shuffle"]:
            table = shuffle.run(ShuffleConfig(), tokenized=tokenized, work=folder / "work", folder=folder / "tokens")
        size = sum(file.stat().st_size for file in (folder / "tokens").glob("*.parquet"))
        values = {
            "rows": rows,
            "selected": made["written"],
            "filtered": made["filtered"],
            "rejected_by_caption": rejected,
            "same_content": table["same_content"],
            "token_table_bytes": size,
            "stages": {stage: monitor.measured for stage, monitor in stages.items()},
        }
        print(f"\n{json.dumps(values)}")
    finally:
        ray.shutdown()
        shutil.rmtree(folder)


def write_table(path: Path, rows: int) -> None:
    """Write a URL table of this many rows; every 33rd row is a duplicate of the one 32 rows before."""
    rng = np.random.default_rng(0)
    with pq.ParquetWriter(
        path,
        pa.schema(
            [("url", pa.string()), ("caption", pa.string()), ("similarity", pa.float32()), ("nsfw", pa.string())]
        ),
    ) as file:
        for start in range(0, rows, GROUP_ROWS):
            numbers = np.arange(start, min(rows, start + GROUP_ROWS))
            numbers = np.where(numbers % 33 == 32, numbers - 32, numbers)
            words = WORDS[np.random.default_rng(1).integers(0, len(WORDS), (len(numbers), 9))]
            text = [f"{' '.join(line)} {n}" for line, n in zip(words[numbers - start], numbers, strict=True)]
            urls = [f"https://img{n % 9973}.host{n % 997}.example/photos/{n:09d}/image.jpg" for n in numbers.tolist()]
            nsfw = np.where(rng.random(len(numbers)) < 0.02, "NSFW", "UNLIKELY")
            similarity = rng.random(len(numbers), np.float32)
            file.write_table(pa.table([urls, text, similarity, nsfw], schema=file.schema))


def each(name: str, made: dict[str, Any], arguments: list[Any], remote: Any) -> Any:
    """Yield the results of a Ray function for each of the arguments, with a progress bar."""
    with tasks.progress_bar(name, made["written"], "rows") as bar:
        calls = (lambda a=a: remote(*a) if isinstance(a, tuple) else remote(a) for a in arguments)
        for result in tasks.run(calls):
            bar.update(made["written"] / len(arguments))
            yield result


@ray.remote(num_cpus=1)
def count_rejected(file: str) -> int:
    """Return the number of captions of a shard that a rule rejects."""
    return sum(caption_rules.drop_reason(caption) is not None for caption in pq.read_table(file)["caption"].to_pylist())


@ray.remote(num_cpus=1)
def tokenize(folder: str, file: str, info: schema.TokenizerInfo) -> int:
    """Write a tokenized shard of random tokens as tokenize_shards.py does; one image in 50 is a duplicate."""
    number, rows = int(Path(file).stem), pq.read_table(file)
    rng = np.random.default_rng(number)
    digests = [rng.bytes(32).hex() for _ in range(len(rows))]
    digests = [digests[i - 1] if i % 50 == 49 else digest for i, digest in enumerate(digests)]
    keys = [f"{number:05d}{index:05d}" for index in range(len(rows))]
    tokens = pa.array(rng.integers(0, info.vocab_size, len(rows) * info.num_tokens, dtype=np.uint16))
    columns = {name: rows[name] for name in rows.column_names} | {
        "uid": pa.array([tokenize_shards.uid("generated", key) for key in keys]),
        "key": pa.array(keys),
        "tokens": pa.FixedSizeListArray.from_arrays(tokens, info.num_tokens),
        "width": pa.array(np.full(len(rows), 512, np.int32)),
        "height": pa.array(np.full(len(rows), 512, np.int32)),
        "sha256": pa.array(digests),
    }
    target = schema.token_schema(info, emage.__version__)
    with manifest.new_folder(image_shards.shard_folder(Path(folder), number)) as temporary:
        table = pa.table([columns[name] for name in target.names], schema=target)
        pq.write_table(table, temporary / tokenize_shards.TOKENS, compression="zstd")
        outputs = {tokenize_shards.TOKENS: manifest.sha256(temporary / tokenize_shards.TOKENS)}
        manifest.write_json(temporary / manifest.NAME, {"outputs": outputs})
    return len(rows)


class StageMonitor:
    """Measures the seconds of a `with` block and the peak memory of this process and of the largest Ray worker."""

    def __enter__(self) -> "StageMonitor":
        self.peaks, self.ended = Counter[str](), threading.Event()
        self.thread = threading.Thread(target=self._sample, daemon=True)
        self.thread.start()
        self.started = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        seconds = time.monotonic() - self.started
        self.ended.set()
        self.thread.join()
        self.measured = {"seconds": round(seconds, 2), **{name: round(kb / 1024, 1) for name, kb in self.peaks.items()}}

    def _sample(self) -> None:
        while not self.ended.wait(0.1):
            for name, pid in [("driver_mb", os.getpid()), *(("worker_mb", pid) for pid in _workers())]:
                self.peaks[name] = max(self.peaks[name], _anonymous_kb(pid))


def _workers() -> list[int]:
    """Return the process ids of the Ray workers of this process."""
    names = ((process.pid, process.name()) for process in psutil.Process().children(recursive=True))
    return [pid for pid, name in names if name.startswith("ray::")]


def _anonymous_kb(pid: int) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it has just ended
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith("RssAnon")), 0)


if __name__ == "__main__":
    if sys.argv[1:2] == [ONE]:
        one(int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
    else:
        main(sys.argv[1:])
