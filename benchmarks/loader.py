"""Speed at which one process reads training batches and tokenizes captions: the goal is 5,000 samples/s on one core.

    python benchmarks/loader.py                                 # a minute, 160 MB of disk; 65,536 rows of 1024 tokens
    python benchmarks/loader.py captions=URLS.parquet column=TEXT epochs=1

Writes a token table of random tokens and captions (those of LAION-400M in $EMAGE_DATA if that is set, otherwise of the
toy world), and reads it as training does: TokenTable.batch, then the ids of CLIP ViT-L/14's text encoder, 77
positions. Everything, including the reading threads, runs on one core. Prints two rates: by wall time, and by
CPU time of this process, which counts on a machine with other load.

The first epoch is the slowest, because no word is in the tokenizer's cache. Memory is that which this process does not
share (USS). In the breakdown, decoding is the time of reading without tokenizing and without computing seeds.
Writes results/loader.json.
"""

import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table

import emage
from emage import config
from emage.config import ModelConfig, ShuffleConfig
from emage.config.fields import setting
from emage.data import schema, shapes
from emage.data.token_table import TokenTable, row_seed
from emage.model.text import ClipText
from emage.model.text.clip_tokenizer import word_ids
from emage.utils import provenance
from emage.utils.errors import InputError, exit_on_bad_input

VOCABULARY = 8192
FILE_ROWS = 16_384
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class LoaderBenchmark:
    """Settings: samples/s of one process that reads training batches and tokenizes their captions."""

    rows: int = setting(65_536, "Rows of the token table.", unit="rows", minimum=1)
    tokens: int = setting(1024, "Tokens per image; a square number.", unit="tokens", minimum=1)
    batch_size: int = setting(64, "Rows that one process reads per step.", unit="rows", minimum=1)
    epochs: int = setting(5, "Times that the table is read.", unit="epochs", minimum=1)
    captions: str | None = setting(None, "Captions: a parquet file. null: that of EMAGE_DATA, or generated ones.")
    column: str = setting("TEXT", "Column with the captions.")

    def problems(self, prefix: str = "") -> Iterator[str]:
        """Yield a message for an image that is not square, and for a table with less than a batch."""
        if self.tokens != round(self.tokens**0.5) ** 2:
            yield f"{prefix}tokens={self.tokens}: must be a square number, such as 1024"
        if self.rows < self.batch_size:
            yield f"{prefix}rows={self.rows}: fewer than {prefix}batch_size={self.batch_size}"


def main(argv: Sequence[str]) -> None:
    """Run the benchmark; exit with 2 and one line on bad input."""
    with exit_on_bad_input():
        benchmark = config.parse(LoaderBenchmark, argv)
        source, captions = read_captions(benchmark)
    with tempfile.TemporaryDirectory() as folder:
        # A process of its own, so that the memory of writing does not count as memory of reading.
        with ProcessPoolExecutor(1, get_context("spawn")) as other:
            other.submit(write_table, Path(folder), benchmark, captions).result()
        found = {**asdict(benchmark), "captions": source, **measure(benchmark, folder, captions), **versions()}
    show(found)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "loader.json").write_text(json.dumps(found, indent=1) + "\n")


def read_captions(benchmark: LoaderBenchmark) -> tuple[str, list[str]]:
    """Return the source of the captions, and the captions, at most one per row."""
    real = Path(os.environ.get("EMAGE_DATA", "")) / "laion_urls_10k.parquet"
    path = benchmark.captions or (str(real) if real.is_file() else None)
    if path is None:
        scenes = shapes.sample_train_scenes(min(benchmark.rows, 10_000), seed=0)
        return "toy world", [scene.caption for scene in scenes]
    try:
        column = pq.read_table(path, columns=[benchmark.column])[benchmark.column]
    except (pa.ArrowException, OSError, KeyError) as error:
        raise InputError(
            f"captions={path}: no captions in column {benchmark.column!r} ({type(error).__name__})"
        ) from None
    captions = column.cast(pa.string()).fill_null("").to_pylist()[: benchmark.rows]
    if not captions:
        raise InputError(f"captions={path}: the table has no rows")
    return Path(path).name, captions


def on_one_core() -> None:
    """Keep this process on one core. Call it before any library starts threads."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    torch.set_num_threads(1)


def write_table(folder: Path, benchmark: LoaderBenchmark, captions: Sequence[str]) -> None:
    """Write a token table as ingest does; captions repeat if there are more rows."""
    side, rng = round(benchmark.tokens**0.5), np.random.default_rng(0)
    columns = schema.token_schema(schema.TokenizerInfo("random", "0" * 64, VOCABULARY, (side, side)), "benchmark")
    for start in range(0, benchmark.rows, FILE_ROWS):
        uid = np.arange(start, min(start + FILE_ROWS, benchmark.rows))
        tokens = rng.integers(VOCABULARY, size=len(uid) * benchmark.tokens, dtype=np.uint16)
        rows = {
            **dict.fromkeys(("dataset", "key", "url", "sha256"), [""] * len(uid)),
            **dict.fromkeys(("width", "height"), [256] * len(uid)),
            "uid": uid,
            "caption": [captions[i % len(captions)] for i in uid],
            "tokens": pa.FixedSizeListArray.from_arrays(pa.array(tokens), benchmark.tokens),
        }
        size = ShuffleConfig().row_group_rows
        file = folder / f"{start // FILE_ROWS:05d}.parquet"
        pq.write_table(pa.table(rows, schema=columns), file, compression="zstd", row_group_size=size)


# --- Measuring --------------------------------------------------------------------------------------------------------


def measure(benchmark: LoaderBenchmark, folder: str, captions: Sequence[str]) -> dict[str, Any]:
    """Return rates and memory of each epoch, and the microseconds per sample of each part of the work."""
    with torch.device("meta"):
        text = ClipText(ModelConfig())
    steps = benchmark.rows // benchmark.batch_size  # full batches of an epoch
    table = TokenTable(folder, seed=0)
    before = megabytes()

    def epoch(number: int, tokenize: bool) -> dict[str, float]:
        def read() -> None:
            for step in range(number * steps, (number + 1) * steps):
                batch = table.batch(step, benchmark.batch_size)
                if tokenize:
                    text.tokenize(batch.captions)

        return {**rates(read, steps * benchmark.batch_size), "megabytes": megabytes()}

    epochs = [epoch(number, tokenize=True) for number in range(benchmark.epochs)]
    untokenized = epoch(benchmark.epochs, tokenize=False)
    table.close()
    seeds = rates(lambda: [row_seed(0, index) for index in range(20_000)], 20_000)

    def tokenize_all() -> None:
        for i in range(0, len(captions), 64):
            text.tokenize(captions[i : i + 64])

    word_ids.cache_clear()
    new, known = (rates(tokenize_all, len(captions)) for _ in range(2))
    parts = {
        "decoding": 1e6 / untokenized["per_cpu_second"] - 1e6 / seeds["per_cpu_second"],
        "seeds": 1e6 / seeds["per_cpu_second"],
        "tokenizing, no word known yet": 1e6 / new["per_cpu_second"],
        "tokenizing, all words known": 1e6 / known["per_cpu_second"],
    }
    return {"before_megabytes": before, "epochs": epochs, "untokenized": untokenized, "parts_us": parts}


def rates(work: Callable[[], Any], samples: int) -> dict[str, float]:
    """Return samples per second of wall time, and per second of CPU time of all threads of this process."""
    clock, cpu = time.perf_counter(), time.process_time()
    work()
    return {
        "per_second": samples / (time.perf_counter() - clock),
        "per_cpu_second": samples / (time.process_time() - cpu),
    }


def megabytes() -> float:
    """Return the memory that this process does not share (USS)."""
    return psutil.Process().memory_full_info().uss / 1e6


def versions() -> dict[str, Any]:
    """Return the machine, versions and commit that the numbers depend on."""
    made_with = {"python": platform.python_version(), "torch": torch.__version__, "pyarrow": pa.__version__}
    return {
        "machine": f"1 of {os.cpu_count()} cores, {platform.machine()}",
        "versions": {**made_with, "open_clip": open_clip.__version__, "emage": emage.__version__},
        "commit": provenance.commit(),
    }


def show(found: dict[str, Any]) -> None:
    """Print a table of rates, and the parts of the work."""
    table = Table("", "samples/s", "samples per CPU second", "MB")
    for name, values in [
        *((f"epoch {i}, tokenized", values) for i, values in enumerate(found["epochs"], start=1)),
        ("not tokenized", found["untokenized"]),
    ]:
        table.add_row(
            name, f"{values['per_second']:,.0f}", f"{values['per_cpu_second']:,.0f}", f"{values['megabytes']:.0f}"
        )
    Console().print(table)
    parts = "; ".join(f"{name}: {microseconds:.0f}" for name, microseconds in found["parts_us"].items())
    print(f"microseconds per sample: {parts}")
    print(f"{found['rows']} rows of {found['tokens']} tokens, captions: {found['captions']}, {found['machine']}")


if __name__ == "__main__":
    on_one_core()
    main(sys.argv[1:])
