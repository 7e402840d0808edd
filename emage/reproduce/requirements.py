"""What a command needs and how long it takes, told before it starts; what it lacks, all at once.

Times come from FLOP: in small by the rate of finished trainings on this machine, or of a few steps taken now; at paper
scale by data sheets (emage.training.estimate).
"""

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch

from emage import tokenizers
from emage.config import (
    CheckpointConfig,
    EvaluateConfig,
    Method,
    ModelConfig,
    ReproduceConfig,
    Table2Config,
    TrainConfig,
)
from emage.data import schema, shapes
from emage.data.schema import TokenizerInfo
from emage.data.token_table import Batch
from emage.evaluation import caption_list
from emage.evaluation.metrics import image_files, inception
from emage.evaluation.metrics.clip_score import ClipScore
from emage.evaluation.metrics.inception import Inception
from emage.inference.ranking import ClipRanker
from emage.methods import METHODS
from emage.model import checkpoint
from emage.model.text import ENCODERS, load_published
from emage.model.transformer import Network
from emage.reproduce import experiments, studies
from emage.reproduce.experiments import Cell
from emage.reproduce.latency import LatencyConfig
from emage.reproduce.paper_numbers import TABLE2
from emage.reproduce.tokenizer_comparison import is_here
from emage.training.estimate import gpus, parameters_and_flops
from emage.training.loop import BareEngine, Objective, train_step
from emage.training.spike_guard import SpikeGuard

PAPER_TOKENS = TokenizerInfo("vqgan-gumbel-f8-8192", "", 8192, (32, 32))
TOKEN_S = 48.0 / 1024  # of the autoregressive model on a V100, by the paper (Table 3)
START_S = 25.0  # of a training's or an evaluation's workers
OTHER_S = 30.0  # a cell of another kind: drawing, tokenizers, strips
MEASURED_STEPS = 4


class Speed(NamedTuple):
    """FLOP/s of training and of drawing, and how that is known."""

    training: float
    drawing: float
    source: str
    actors: int = 1  # that draw
    token: float = 0.0  # seconds that a token of the autoregressive model takes at least


# --- What is missing --------------------------------------------------------------------------------------------------


def missing(config: ReproduceConfig, wanted: Sequence[Cell]) -> list[str]:
    """The settings and files without which the command could not end well, each as what to do."""
    kinds = {type(cell.config) for cell in wanted}
    lacking = []
    if config.scale == "paper":
        lacking += _places(config) if TrainConfig in kinds else []
        if Table2Config in kinds and config.table2.pictures is None:
            lacking.append("table2.pictures=FOLDER (COCO's val2014)")
        if Table2Config in kinds and not any(is_here(name, config.table2) for name in _tokenizers(config)):
            lacking.append("table2.weights.NAME=FILE or table2.fetch=true (no tokenizer's weights are here)")
        if EvaluateConfig in kinds and not config.paper.inception and not inception.WEIGHTS.cached.exists():
            lacking.append(f"paper.inception=FILE (fetch {inception.WEIGHTS.url})")
    return lacking + [f"{name}={path} (no such file)" for name, path in _files(config).items() if not _is_there(path)]


def _places(config: ReproduceConfig) -> list[str]:
    needed = {
        "data": "FOLDER, a token table (pipelines/ingest.py writes one)",
        "captions": "FILE (COCO's captions_val2014.json)",
        "reference": "FOLDER of their images, or a .tar",
    }
    return [f"paper.{name}={what}" for name, what in needed.items() if getattr(config.paper, name) is None]


def _files(config: ReproduceConfig) -> dict[str, str]:
    """Files and folders that settings name. CLIP's may be names of published weights: those are left to the loader."""
    names = ("captions", "reference", "inception", "tokenizer_weights", "text_weights", "bert_weights")
    given: dict[str, Any] = {f"paper.{name}": getattr(config.paper, name) for name in names}
    given["table2.pictures"] = config.table2.pictures
    return {name: path for name, path in given.items() if path is not None}


def _tokenizers(config: ReproduceConfig) -> list[str]:
    return [*(config.table2.tokenizers or TABLE2), *config.table2.weights]


def load_weights(wanted: Sequence[Cell]) -> None:
    """Loads, and where needed fetches, the networks that are had by name: now, and not after days of training.

    Raises InputError, which says what to do, for one that cannot be had.
    """
    for model in dict.fromkeys(cell.config.model for cell in wanted if isinstance(cell.config, TrainConfig)):
        load_published(ENCODERS[model.text](model), model)
    rated = next((cell.config for cell in wanted if isinstance(cell.config, EvaluateConfig)), None)
    if rated and rated.rank == "clip" and rated.candidates > 1:
        ClipRanker(rated.rank_weights, rated.rank_model)
    if rated and "clip_score" in rated.metrics:
        ClipScore(rated.judge.clip_weights, rated.judge.clip_model, setting="paper.clip_weights")
    for one in {cell.config.captions: cell.config for cell in wanted if _is_outside(cell)}.values():
        caption_list.read(one.captions, one.limit, one.seed)
        image_files.find(str(one.judge.reference))
        if one.judge.inception:
            Inception(one.judge.inception)


def _is_outside(cell: Cell) -> bool:
    """Whether it is an evaluation of captions that are there already; those of the small world are yet to be made."""
    return isinstance(cell.config, EvaluateConfig) and Path(cell.config.captions).exists()


def _is_there(path: str) -> bool:
    return Path(path).exists()


# --- What is to do ----------------------------------------------------------------------------------------------------


def describe(config: ReproduceConfig, wanted: Sequence[Cell], output: Path) -> str:
    """A line a fact. Takes a few training steps where nothing else tells how fast this machine is."""
    todo = list(wanted) if config.force else experiments.waiting(wanted, output)
    trainings = [cell for cell in todo if isinstance(cell.config, TrainConfig)]
    lines = {
        "what": f"{config.what}, scale={config.scale}, seeds: {studies.num_seeds(config)}, in {output}",
        "cells": f"{len(wanted)}: {len(wanted) - len(todo)} done, {len(todo)} to do ({_kinds(todo)})",
        "trainings": ", ".join(_trainings(trainings)) or "none",
        "pictures": _images(config, todo),
        "time": _time(config, wanted, todo, output),
    }
    return "\n".join(f"{name:<12}{line}" for name, line in lines.items())


def _kinds(todo: Sequence[Cell]) -> str:
    kinds = [cell.name.partition("/")[0] for cell in todo]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "nothing"


def _trainings(todo: Sequence[Cell]) -> list[str]:
    sizes = [(cell.config.optim.steps, cell.config.optim.batch_size) for cell in todo]
    return [f"{sizes.count(size)} x {size[0]:,} steps of {size[1]:,} images" for size in dict.fromkeys(sizes)]


def _images(config: ReproduceConfig, todo: Sequence[Cell]) -> str:
    rated = [cell.config for cell in todo if isinstance(cell.config, EvaluateConfig)]
    drawn = sum(one.limit * one.candidates for one in rated)
    small = (
        f"{config.small.pictures:,} to train on and {config.small.references:,} for reference, "
        "drawn by emage.data.shapes; "
    )
    return (small if config.scale == "small" else "") + f"{drawn:,} drawn by models for {len(rated)} evaluations"


def _time(config: ReproduceConfig, wanted: Sequence[Cell], todo: Sequence[Cell], output: Path) -> str:
    if not todo:
        return "all is done"
    speed = _speed(config, wanted, output)
    seconds = sum(_seconds(cell, speed, _tokens(config)) for cell in todo)
    return f"about {duration(seconds)} for one process ({speed.source})"


def duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{math.ceil(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.1f} days"


def _seconds(cell: Cell, speed: Speed, tokens: TokenizerInfo) -> float:
    one = cell.config
    if isinstance(one, TrainConfig):
        return START_S + parameters_and_flops.run_flops(one, _network(one.method, one.model, tokens)) / speed.training
    if isinstance(one, EvaluateConfig | LatencyConfig) and cell.needs:
        made = cell.needs[0].config
        assert isinstance(made, TrainConfig)
        network = _network(made.method, made.model, tokens)
        # A training step is three forward passes' work, of one pass of the network.
        forward = parameters_and_flops.flops_per_sample(network, made.method, in_warm_start=True) / 3
        images = one.limit * one.candidates if isinstance(one, EvaluateConfig) else one.rounds + one.warm_up
        if made.method == "autoregressive":
            # With a cache all tokens together are one pass; but a GPU waits for each of them, whatever the batch.
            batches = images / (one.batch_size * speed.actors if isinstance(one, EvaluateConfig) else 1)
            waiting = batches * tokens.num_tokens * speed.token
            return START_S + max(waiting, images * forward / speed.drawing)
        passes = METHODS[made.method].num_passes(replace(made.sampling, **one.sampling), tokens.num_tokens)
        return START_S + images * passes * forward / speed.drawing
    return OTHER_S


@functools.lru_cache(maxsize=32)
def _network(method: Method, model: ModelConfig, tokens: TokenizerInfo) -> Network:
    with torch.device("meta"):
        return Network(model, tokens.vocab_size, tokens.grid, causal=METHODS[method].CAUSAL)


def _tokens(config: ReproduceConfig) -> TokenizerInfo:
    if config.scale == "small":
        return checkpoint.describe(tokenizers.load(tokenizers.DEMO))
    return schema.open_token_table(config.paper.data)[1] if config.paper.data else PAPER_TOKENS


# --- How fast ---------------------------------------------------------------------------------------------------------


def _speed(config: ReproduceConfig, wanted: Sequence[Cell], output: Path) -> Speed:
    if config.scale == "paper":
        gpu = gpus.GPUS["float32"]
        one = gpu.assumed_flops_per_s
        workers, actors = config.paper.num_workers, config.paper.num_actors
        source = (
            f"trainings on {workers} {gpu.name}s, drawing on {actors}, at {one / gpu.peak:.0%} of their peak, assumed"
        )
        return Speed(one * workers, one * actors, source, actors, TOKEN_S)
    trainings = [cell for cell in wanted if isinstance(cell.config, TrainConfig)]
    if not trainings:
        return Speed(math.inf, math.inf, "no training")
    rates = [rate for cell in trainings if (rate := _past_rate(cell, output, _tokens(config)))]
    rate = mean(rates) if rates else measured_rate(trainings[0].config, _tokens(config), config.small.cpus)
    return Speed(rate, rate, f"by {len(rates)} finished trainings" if rates else "by a few steps taken now")


def _past_rate(cell: Cell, output: Path, tokens: TokenizerInfo) -> float | None:
    """FLOP/s of a finished training; None where it was not done in one go."""
    record = experiments.result(cell, output)
    if not record or not record["seconds"]:
        return None
    network = _network(cell.config.method, cell.config.model, tokens)
    return parameters_and_flops.run_flops(cell.config, network) / max(1.0, record["seconds"] - START_S)


def measured_rate(config: TrainConfig, tokens: TokenizerInfo, cpus: int) -> float:
    """FLOP/s of training steps of this run, on random tokens; the first one warms up."""
    parts = CheckpointConfig(config.method, tokens.vocab_size, tokens.grid, config.model, config.sampling)
    network = checkpoint.build(parts).to("cuda" if torch.cuda.is_available() else "cpu")
    engine = BareEngine(Objective(network, config.method, config.objective), config.optim)
    rows, guard = config.optim.batch_size, SpikeGuard(config.optim.max_spike)
    captions = [scene.caption for scene in shapes.sample_train_scenes(rows, seed=0)]
    y = torch.randint(tokens.vocab_size, (rows, tokens.num_tokens))
    batch = Batch(list(range(rows)), captions, y, list(range(rows)))
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(cpus)
    try:
        for _ in range(MEASURED_STEPS):
            started = time.perf_counter()
            train_step(engine, batch, config, guard, lr=0.0, in_warm_start=False)
            seconds.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return rows * parameters_and_flops.flops_per_sample(network, config.method) / min(seconds[1:])
