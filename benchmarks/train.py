"""What a training step costs: the methods side by side, precisions on a GPU, the pipeline beside a bare PyTorch loop.

python benchmarks/train.py                                              # the demo's model
python benchmarks/train.py preset=emage_346m micro_batch_size=1 steps=1 rounds=2 pipeline=false   # on a CPU: minutes
python benchmarks/train.py preset=emage_346m results=train.json         # on a GPU

Methods take turns on the same rows, so that whatever else the machine does falls on all. FLOP are those of
emage.training.estimate; their share is of a large matrix product's rate, measured in the same run. By its FLOP
#3 should cost about 1.33 x #1: its first pass is one more forward, without gradient.
"""

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import emage
from emage import tokenizers
from emage.config import MLflowConfig, Precision, TrainConfig, cli, preset
from emage.data import schema
from emage.data.shapes import sample_train_scenes
from emage.data.token_table import Batch, TokenTable
from emage.methods import METHODS
from emage.methods.masking import ImageRng
from emage.model.checkpoint import describe
from emage.model.device_support import check_precision, choose, matmul_rate, set_precision, wait_for
from emage.model.transformer import Network
from emage.training.engine import BareEngine, Objective
from emage.training.estimate import gpus, memory_and_disk, parameters_and_flops
from emage.training.loop import fit
from emage.training.optimizer import adamw
from emage.training.step_log import columns as steps_of
from emage.utils import provenance
from emage.utils.errors import InputError, exit_on_bad_input


class Tokens(NamedTuple):
    vocab_size: int
    grid: tuple[int, int]


TOKENS = {"vqgan-demo-f8-512": Tokens(512, (8, 8)), "vqgan-gumbel-f8-8192": Tokens(8192, (32, 32))}


@dataclass(frozen=True)
class TrainBenchmark:
    """Milliseconds of a training step, method by method (benchmarks/train.py; it has no presets of its own)."""

    preset: str = "demo"  # of training: its model and batch
    methods: tuple[str, ...] = tuple(METHODS)
    micro_batch_size: int | None = None  # images a step; none: the preset's
    steps: int = 10  # timed at a time
    rounds: int = 5  # and one to warm up
    precision: tuple[str, ...] = ("float32", "tf32", "bfloat16")
    compile: tuple[bool, ...] = (False, True)  # torch.compile of the two networks
    device: str = "auto"  # auto: cuda where there is one
    memory: bool = True  # on a GPU: the largest micro-batch, by trying
    pipeline: bool = True  # Ray Train + DeepSpeed beside a bare loop; needs a tokenizer that is shipped
    results: str | None = None  # a JSON file


class Variant(NamedTuple):
    precision: Precision
    compiled: bool

    def __str__(self) -> str:
        return f"{self.precision}{', compiled' if self.compiled else ''}"


class Bench(NamedTuple):
    """What every part is given."""

    settings: TrainBenchmark
    config: TrainConfig
    tokens: Tokens
    device: torch.device


def main(argv: Sequence[str]) -> None:
    """Exits with 2 and one line on bad input."""
    with exit_on_bad_input():
        run(cli.parse(TrainBenchmark, argv))


def run(settings: TrainBenchmark) -> dict[str, Any]:
    device = check(settings)
    config = training(settings)
    bench = Bench(settings, config, TOKENS[config.data.tokenizer], device)
    record: dict[str, Any] = {**surroundings(device), "settings": asdict(settings), "variants": {}, "skipped": {}}
    for precision in settings.precision:
        for compiled in settings.compile:
            variant = Variant(precision, compiled)  # type: ignore[arg-type]
            if reason := reason_to_skip(variant, device):
                record["skipped"][str(variant)] = reason
                print(f"{variant}: skipped, {reason}")
                continue
            record["variants"][str(variant)] = found = measure(variant, bench)
            show(f"{settings.preset}, {variant}, {record['device']}", found)
    if settings.pipeline:
        record["pipeline"] = found = beside_the_pipeline(bench)
        print("{bare_ms:.1f} ms a step bare, {bare_beside_ray_ms:.1f} ms beside an idle Ray".format(**found))
        print("Ray Train + DeepSpeed {pipeline_ms:.1f} ms: {ratio:.2f} x and {ratio_beside_ray:.2f} x".format(**found))
    if settings.results:
        Path(settings.results).write_text(json.dumps(record, indent=1) + "\n")
    return record


def check(settings: TrainBenchmark) -> torch.device:
    """The device. Raises InputError for a setting that could not end well."""
    for name in ("micro_batch_size", "steps", "rounds"):
        value = getattr(settings, name)
        if value is not None and value < 1:
            raise InputError(f"{name}={value}: there must be at least one")
    choices = {"methods": tuple(METHODS), "precision": tuple(gpus.GPUS)}
    for name, allowed in choices.items():
        for value in getattr(settings, name):
            if value not in allowed:
                raise InputError(f"{name}: {value!r} is none of {', '.join(allowed)}")
    return torch.device(choose(settings.device))


def training(settings: TrainBenchmark) -> TrainConfig:
    """The preset's run, a step being one micro-batch. Raises InputError for an unknown preset."""
    config = preset(TrainConfig, settings.preset, data={"path": "unused"}, run={"output": "unused"})
    size = settings.micro_batch_size or config.optim.micro_batch_size
    return replace(config, optim=replace(config.optim, batch_size=size, micro_batch_size=size))


def reason_to_skip(variant: Variant, device: torch.device) -> str | None:
    if device.type != "cuda" and variant != Variant("float32", False):
        return "compared on GPUs alone"
    try:
        check_precision(variant.precision, device)
    except InputError as error:
        return str(error)
    return None


# --- Methods side by side ---------------------------------------------------------------------------------------------


def measure(variant: Variant, bench: Bench) -> dict[str, Any]:
    """Figures by method, and what they have in common."""
    before = torch.get_float32_matmul_precision()
    forward = set_precision(variant.precision, bench.device)
    try:
        found: dict[str, Any] = {"micro_batch_size": bench.config.optim.batch_size}
        found["matmul_flops_per_s"] = matmul_rate(bench.device, variant.precision)
        found["methods"] = speed(variant, forward, bench, found["matmul_flops_per_s"])
        if bench.device.type == "cuda" and bench.settings.memory and not variant.compiled:
            for method, figures in found["methods"].items():
                figures |= memory_of(method, forward, bench)
        return found
    finally:
        torch.set_float32_matmul_precision(before)


def speed(variant: Variant, forward: AbstractContextManager, bench: Bench, peak: float) -> dict[str, dict[str, Any]]:
    """Methods on the same rows, in turns. All but the causal one train the same network."""
    batch = rows(bench.config.optim.batch_size, bench.tokens)
    networks = {causal: trained(bench, causal, variant.compiled) for causal in causalities(bench.settings.methods)}
    steps = {
        method: bare_step(method, *networks[METHODS[method].CAUSAL], bench.config, forward)
        for method in bench.settings.methods
    }
    times = in_turns({name: lambda step=step: step(batch) for name, step in steps.items()}, bench)
    found: dict[str, dict[str, Any]] = {}
    for method, seconds in times.items():
        network, _ = networks[METHODS[method].CAUSAL]
        flops = parameters_and_flops.flops_per_sample(network, method) * len(batch.uid) / seconds  # type: ignore[arg-type]
        found[method] = {
            "ms": seconds * 1e3,
            "tokens_per_s": batch.y.numel() / seconds,
            "flops_per_s": flops,
            "share_of_matmul": flops / peak,
            "ratio_to_iterative1": seconds / times["iterative1"] if "iterative1" in times else None,
        }
    return found


def causalities(methods: Sequence[str]) -> set[bool]:
    return {METHODS[method].CAUSAL for method in methods}


def trained(bench: Bench, causal: bool, compiled: bool = False) -> tuple[Network, torch.optim.Optimizer]:
    """A network with random weights, and its optimizer."""
    torch.manual_seed(0)
    network = Network(bench.config.model, bench.tokens.vocab_size, bench.tokens.grid, causal).to(bench.device)
    if compiled:
        network.text.compile()
        network.decoder.compile()
    return network, adamw(network, bench.config.optim)


def bare_step(
    method: str,
    network: Network,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    forward: AbstractContextManager,
) -> Callable[[Batch], None]:
    """One step in bare PyTorch: loss, gradients, clipping, AdamW."""
    objective = Objective(network, method, config.objective, forward)
    device = network.decoder.head.weight.device

    def step(batch: Batch) -> None:
        ids = network.text.tokenize(batch.captions)[0].to(device)
        loss = objective(ids, batch.y.to(device), ImageRng(batch.seeds, device), False)
        (loss.total / loss.count).backward()
        nn.utils.clip_grad_norm_(network.parameters(), config.optim.clip_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def rows(size: int, tokens: Tokens) -> Batch:
    """Captions of the small world and tokens by chance: what a step costs does not depend on them."""
    captions = [scene.caption for scene in sample_train_scenes(size, seed=0)]
    n = tokens.grid[0] * tokens.grid[1]
    y = torch.randint(0, tokens.vocab_size, (size, n), generator=torch.Generator().manual_seed(0))
    return Batch(list(range(size)), captions, y, list(range(size)))


def in_turns(works: Mapping[str, Callable[[], object]], bench: Bench) -> dict[str, float]:
    """Median seconds of each work over the rounds; the first round warms up and does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(bench.settings.rounds + 1):
        for name, work in works.items():
            wait_for(bench.device)
            started = time.perf_counter()
            for _ in range(bench.settings.steps):
                work()
            wait_for(bench.device)
            times[name].append((time.perf_counter() - started) / bench.settings.steps)
    return {name: statistics.median(values[1:]) for name, values in times.items()}


# --- Memory of a GPU --------------------------------------------------------------------------------------------------


def memory_of(method: str, forward: AbstractContextManager, bench: Bench) -> dict[str, Any]:
    """What an image adds to the peak, the largest micro-batch that goes through a step, and what the plan expects."""
    network, optimizer = trained(bench, METHODS[method].CAUSAL)
    step = bare_step(method, network, optimizer, bench.config, forward)
    half = max(1, bench.config.optim.batch_size // 2)
    step(rows(1, bench.tokens))  # makes AdamW's moments
    small, large = (peak_bytes(step, rows(size, bench.tokens), bench.device) for size in (half, 2 * half))
    precision = "bfloat16" if isinstance(forward, torch.autocast) else "float32"
    return {
        "peak_bytes": large,
        "bytes_a_picture": (large - small) / half,
        "planned_activation_bytes": memory_and_disk.activation_bytes(network, precision),
        "largest_micro_batch": largest(lambda size: fits(step, rows(size, bench.tokens)), start=2 * half),
    }


def peak_bytes(step: Callable[[Batch], None], batch: Batch, device: torch.device) -> int:
    torch.cuda.reset_peak_memory_stats(device)
    step(batch)
    return torch.cuda.max_memory_allocated(device)


def fits(step: Callable[[Batch], None], batch: Batch) -> bool:
    torch.cuda.empty_cache()
    try:
        step(batch)
    except torch.OutOfMemoryError:
        return False
    return True


def largest(works: Callable[[int], bool], start: int) -> int:
    """The largest size that works, to 3 %, where all below one that works do: doubled from `start`, then halved in."""
    good, bad = 0, start
    while works(bad):
        good, bad = bad, 2 * bad
    while bad - good > max(1, good // 32):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if works(middle) else (good, middle)
    return good


# --- Ray Train and DeepSpeed ------------------------------------------------------------------------------------------


def beside_the_pipeline(bench: Bench) -> dict[str, float]:
    """#1 in float32 through the driver of pipelines/train.py, and the bare loop over the same table.

    Once before Ray is there, and once afterwards beside its idle processes, which take their share of a few cores.
    """
    from emage.on_ray.training.driver import train  # takes seconds, and only this part needs it

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
        through = median_step(steps_of(f"{folder}/run/steps.jsonl", ["time"])["time"], bench)
    seconds = {"bare_ms": before, "bare_beside_ray_ms": after, "pipeline_ms": through}
    ratios = {"ratio": through / before, "ratio_beside_ray": through / after}
    return {name: value * 1e3 for name, value in seconds.items()} | ratios


def bare_loop(config: TrainConfig, bench: Bench) -> float:
    """Median seconds of a step of the same run in PyTorch alone."""
    network, _ = trained(bench, causal=False)
    engine = BareEngine(Objective(network, config.method, config.objective), config.optim)
    table, moments = TokenTable(config.data.path, config.run.seed), list[float]()
    fit(engine, table, config, lambda _, values, __: moments.append(values["time"]))
    return median_step(np.array(moments), bench)


def median_step(moments: np.ndarray, bench: Bench) -> float:
    """Seconds between steps; the first round warms up, and the last step also draws and saves."""
    return float(np.median(np.diff(moments)[bench.settings.steps : -1]))


def write_table(folder: Path, bench: Bench) -> Path:
    """Tokens by chance with the preset's tokenizer's name on them, enough for some batches."""
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
    pq.write_table(pa.table(columns, schema=schema.token_table(info, "benchmark")), folder / "00000.parquet")
    return folder


# --- What is shown ----------------------------------------------------------------------------------------------------


def surroundings(device: torch.device) -> dict[str, Any]:
    """Where the figures were taken: device, versions, commit."""
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores"
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else threads,
        "versions": {"emage": emage.__version__, "torch": torch.__version__, "deepspeed": version("deepspeed")},
        "commit": provenance.commit(),
    }


def show(title: str, found: dict[str, Any]) -> None:
    rate = found["matmul_flops_per_s"] / 1e12
    table = Table(title=f"{title}, {found['micro_batch_size']} images a step, matmul {rate:.3g} TFLOP/s")
    table.add_column("method", no_wrap=True)
    for column in ("ms/step", "tokens/s", "TFLOP/s", "of matmul", "x #1", "MB/image", "largest"):
        table.add_column(column, justify="right")
    for method, row in found["methods"].items():
        ratio, size = row["ratio_to_iterative1"], row.get("bytes_a_picture")
        table.add_row(
            *(method, f"{row['ms']:.1f}", f"{row['tokens_per_s']:,.0f}", f"{row['flops_per_s'] / 1e12:.3g}"),
            *(f"{row['share_of_matmul']:.0%}", f"{ratio:.2f}" if ratio else "", f"{size / 2**20:.0f}" if size else ""),
            str(row.get("largest_micro_batch", "")),
        )
    Console().print(table)


if __name__ == "__main__":
    main(sys.argv[1:])
