"""Part of benchmarks/train.py: a step through Ray Train and DeepSpeed compared with a bare PyTorch loop."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from train_bench import Bench, network_and_optimizer, rows

from emage import tokenizers
from emage.config import MLflowConfig, TrainConfig
from emage.data import schema
from emage.data.token_table import TokenTable
from emage.model.checkpoint import describe
from emage.training.engine import BareEngine, Objective
from emage.training.loop import fit
from emage.training.step_log import columns as step_columns


def compare_with_pipeline(bench: Bench) -> dict[str, float]:
    """Time iterative1 in float32 through the driver of pipelines/train.py, and a bare loop over the same table.

    The bare loop runs once before Ray is started, and once afterwards next to its idle processes, which use some CPU.
    """
    from emage.on_ray.training.driver import train  # takes seconds to import

    steps = bench.settings.steps * (bench.settings.rounds + 1)
    with tempfile.TemporaryDirectory() as folder:
        table = write_table(Path(folder) / "tokens", bench)
        rarely = dict.fromkeys(("log_every", "sample_every", "checkpoint_every"), steps)
        use_gpu = bench.device.type == "cuda"
        config = replace(
            bench.config,
            method="iterative1",
            data=replace(bench.config.data, path=str(table)),
            optim=replace(bench.config.optim, steps=steps),
            run=replace(bench.config.run, output=f"{folder}/run", use_gpu=use_gpu, num_workers=1, **rarely),
            mlflow=MLflowConfig(enabled=False),
        )
        before = bare_loop(config, bench)
        train(config)
        after = bare_loop(config, bench)
        through = median_step(step_columns(f"{folder}/run/steps.jsonl", ["time"])["time"], bench)
    seconds = {"bare_ms": before, "bare_beside_ray_ms": after, "pipeline_ms": through}
    ratios = {"ratio": through / before, "ratio_beside_ray": through / after}
    return {name: value * 1e3 for name, value in seconds.items()} | ratios


def bare_loop(config: TrainConfig, bench: Bench) -> float:
    """Return the median seconds of a step of the same run in PyTorch alone."""
    network, _ = network_and_optimizer(bench, causal=False)
    engine = BareEngine(Objective(network, config.method, config.objective), config.optim)
    table, moments = TokenTable(config.data.path, config.run.seed), list[float]()
    fit(engine, table, config, lambda _, values, __: moments.append(values["time"]))
    return median_step(np.array(moments), bench)


def median_step(moments: np.ndarray, bench: Bench) -> float:
    """Return the median seconds between steps, without the warm-up round and the last step, which also saves."""
    return float(np.median(np.diff(moments)[bench.settings.steps : -1]))


def write_table(folder: Path, bench: Bench) -> Path:
    """Write a table of random tokens for 64 batches, with the metadata of the preset's tokenizer."""
    info = describe(tokenizers.load(bench.config.data.tokenizer))
    batch = rows(64 * bench.config.optim.batch_size, bench.tokens)
    flat = pa.array(batch.y.numpy().astype(np.uint16).ravel())
    columns: dict[str, Any] = {
        **dict.fromkeys(("dataset", "key", "url", "sha256"), [""] * len(batch.uid)),
        **dict.fromkeys(("width", "height"), [64] * len(batch.uid)),
        **{"uid": batch.uid, "caption": batch.captions},
        "tokens": pa.FixedSizeListArray.from_arrays(flat, info.num_tokens),
    }
    folder.mkdir()
    pq.write_table(pa.table(columns, schema=schema.token_schema(info, "benchmark")), folder / "00000.parquet")
    return folder
