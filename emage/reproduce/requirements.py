"""Requirements of a `reproduce` command: missing settings and files, and an estimate of its work and time.

Times come from FLOP. With scale=small the rate is that of finished trainings on this machine, or of a few training
steps run now; with scale=paper it comes from data sheets (emage.training.estimate).
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
from emage.evaluation import caption_list, reference_features
from emage.evaluation.metrics.clip_score import ClipScore
from emage.evaluation.networks import inception
from emage.evaluation.networks.inception import Inception
from emage.inference.ranking import ClipRanker
from emage.methods import METHODS
from emage.model import checkpoint
from emage.model.text import ENCODERS, load_published
from emage.model.transformer import Network
from emage.reproduce import studies
from emage.reproduce.experiments import Experiment, read_result, unfinished
from emage.reproduce.latency import LatencyConfig
from emage.reproduce.paper_numbers import TABLE2
from emage.reproduce.tokenizer_comparison import is_available
from emage.training.engine import BareEngine, Objective
from emage.training.estimate import gpus, parameters_and_flops
from emage.training.loop import train_step
from emage.training.spike_guard import SpikeGuard

PAPER_TOKENIZER = TokenizerInfo("vqgan-gumbel-f8-8192", "", 8192, (32, 32))
SECONDS_PER_TOKEN = 48.0 / 1024  # of the autoregressive model on a V100 (paper, Table 3)
START_S = 25.0  # until the workers of a training or an evaluation are running
OTHER_S = 30.0  # assumed for an experiment of another kind: data set, tokenizers, filmstrips
MEASURED_STEPS = 4


class Speed(NamedTuple):
    """FLOP/s of training and of generation, and the source of these numbers."""

    training: float
    generation: float
    source: str
    num_actors: int = 1  # actors that generate images
    seconds_per_token: float = 0.0  # of the autoregressive model, at least


# --- Missing settings and files ---------------------------------------------------------------------------------------


def missing(config: ReproduceConfig, experiments: Sequence[Experiment]) -> list[str]:
    """Return the settings and files that the experiments need and that are missing, each as an instruction."""
    kinds = {type(experiment.config) for experiment in experiments}
    lacking = []
    if config.scale == "paper":
        lacking += _missing_inputs(config) if TrainConfig in kinds else []
        if Table2Config in kinds and config.table2.pictures is None:
            lacking.append("table2.pictures=FOLDER (COCO's val2014)")
        if Table2Config in kinds and not any(is_available(name, config.table2) for name in _tokenizers(config)):
            lacking.append("table2.weights.NAME=FILE or table2.fetch=true (the weights of no tokenizer are available)")
        if EvaluateConfig in kinds and not config.paper.inception and not inception.WEIGHTS.cached.exists():
            lacking.append(f"paper.inception=FILE (fetch {inception.WEIGHTS.url})")
    return lacking + [
        f"{name}={path} (no such file)" for name, path in _files(config).items() if not Path(path).exists()
    ]


def _missing_inputs(config: ReproduceConfig) -> list[str]:
    needed = {
        "data": "FOLDER, a token table (pipelines/ingest.py writes one)",
        "captions": "FILE (COCO's captions_val2014.json)",
        "reference": "FOLDER of their images, or a .tar",
    }
    return [f"paper.{name}={what}" for name, what in needed.items() if getattr(config.paper, name) is None]


def _files(config: ReproduceConfig) -> dict[str, str]:
    """Return the paths in the settings, except those that may also be names of published weights (CLIP's)."""
    names = ("captions", "reference", "inception", "tokenizer_weights", "text_weights", "bert_weights")
    given: dict[str, Any] = {f"paper.{name}": getattr(config.paper, name) for name in names}
    given["table2.pictures"] = config.table2.pictures
    return {name: path for name, path in given.items() if path is not None}


def _tokenizers(config: ReproduceConfig) -> list[str]:
    return [*(config.table2.tokenizers or TABLE2), *config.table2.weights]


def load_weights(experiments: Sequence[Experiment]) -> None:
    """Load, and if necessary fetch, the networks and inputs of the experiments, before days of training.

    Raises:
        InputError: One of them is unavailable; the message states what to do.
    """
    configs = [experiment.config for experiment in experiments]
    for model in dict.fromkeys(config.model for config in configs if isinstance(config, TrainConfig)):
        load_published(ENCODERS[model.text](model), model)
    evaluations = [config for config in configs if isinstance(config, EvaluateConfig)]
    if evaluations:
        _load_clip(evaluations[0])
    # The captions of scale=small do not exist before its data set is made.
    by_captions = {config.captions: config for config in evaluations if Path(config.captions).exists()}
    for config in by_captions.values():
        reference_features.list_images(config.judge, caption_list.read(config.captions, config.limit, config.seed))
        if config.judge.inception:
            Inception(config.judge.inception)


def _load_clip(config: EvaluateConfig) -> None:
    if config.rank == "clip" and config.candidates > 1:
        ClipRanker(config.rank_weights, config.rank_model)
    if "clip_score" in config.metrics:
        ClipScore(config.judge.clip_weights, config.judge.clip_model, setting="paper.clip_weights")


# --- Work and time ----------------------------------------------------------------------------------------------------


def describe(config: ReproduceConfig, experiments: Sequence[Experiment], output: Path) -> str:
    """Return the text that is printed before a command starts: experiments, trainings, images and time, one per line.

    Runs a few training steps if no finished training shows how fast this machine is.
    """
    todo = list(experiments) if config.force else unfinished(experiments, output)
    trainings = [experiment for experiment in todo if isinstance(experiment.config, TrainConfig)]
    num_done = len(experiments) - len(todo)
    lines = {
        "what": f"{config.what}, scale={config.scale}, seeds: {studies.num_seeds(config)}, in {output}",
        "experiments": f"{len(experiments)}: {num_done} done, {len(todo)} to run ({_kinds(todo)})",
        "trainings": ", ".join(_trainings(trainings)) or "none",
        "images": _images(config, todo),
        "time": _time(config, experiments, todo, output),
    }
    return "\n".join(f"{name:<12}{line}" for name, line in lines.items())


def _kinds(todo: Sequence[Experiment]) -> str:
    kinds = [experiment.name.partition("/")[0] for experiment in todo]
    return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "nothing"


def _trainings(todo: Sequence[Experiment]) -> list[str]:
    sizes = [(experiment.config.optim.steps, experiment.config.optim.batch_size) for experiment in todo]
    return [f"{sizes.count(size)} x {size[0]:,} steps of {size[1]:,} images" for size in dict.fromkeys(sizes)]


def _images(config: ReproduceConfig, todo: Sequence[Experiment]) -> str:
    evaluations = [experiment.config for experiment in todo if isinstance(experiment.config, EvaluateConfig)]
    generated = sum(one.limit * one.candidates for one in evaluations)
    small = (
        f"{config.small.pictures:,} to train on and {config.small.references:,} for reference, "
        "rendered by emage.data.shapes; "
    )
    prefix = small if config.scale == "small" else ""
    return prefix + f"{generated:,} generated by models for {len(evaluations)} evaluations"


def _time(config: ReproduceConfig, experiments: Sequence[Experiment], todo: Sequence[Experiment], output: Path) -> str:
    if not todo:
        return "everything is finished"
    speed = _speed(config, experiments, output)
    seconds = sum(_seconds(experiment, speed, tokenizer_of(config)) for experiment in todo)
    return f"about {format_duration(seconds)} for one process ({speed.source})"


def format_duration(seconds: float) -> str:
    """Return minutes, hours or days, as "12 min", "3.5 h", "2.1 days"."""
    if seconds < 3600:
        return f"{math.ceil(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h" if seconds < 2 * 86_400 else f"{seconds / 86_400:.1f} days"


def _seconds(experiment: Experiment, speed: Speed, tokenizer: TokenizerInfo) -> float:
    """Estimate the seconds of one experiment."""
    config = experiment.config
    if isinstance(config, TrainConfig):
        network = network_of(config, tokenizer)
        return START_S + parameters_and_flops.run_flops(config, network) / speed.training
    if isinstance(config, EvaluateConfig | LatencyConfig) and experiment.needs:
        return START_S + _generation_seconds(config, experiment.needs[0].config, speed, tokenizer)
    return OTHER_S


def _generation_seconds(
    config: EvaluateConfig | LatencyConfig, trained: TrainConfig, speed: Speed, tokenizer: TokenizerInfo
) -> float:
    """Estimate the seconds in which the trained model generates the images of an evaluation or a timing."""
    is_evaluation = isinstance(config, EvaluateConfig)
    network = network_of(trained, tokenizer)
    sampling = replace(trained.sampling, **config.sampling)
    seconds = parameters_and_flops.generation_flops(network, trained.method, sampling.steps) / speed.generation
    images = config.limit * config.candidates if is_evaluation else config.rounds + config.warm_up
    if trained.method == "autoregressive":
        # A GPU takes a minimum time for each token, however large the batch is.
        batches = images / (config.batch_size * speed.num_actors if is_evaluation else 1)
        return max(batches * tokenizer.num_tokens * speed.seconds_per_token, images * seconds)
    return images * seconds


def network_of(config: TrainConfig, tokenizer: TokenizerInfo) -> Network:
    """Return the network of a training, without memory for its weights."""
    return _network(config.method, config.model, tokenizer)


@functools.lru_cache(maxsize=32)
def _network(method: Method, model: ModelConfig, tokenizer: TokenizerInfo) -> Network:
    with torch.device("meta"):
        return Network(model, tokenizer.vocab_size, tokenizer.grid, causal=METHODS[method].CAUSAL)


def tokenizer_of(config: ReproduceConfig) -> TokenizerInfo:
    """Return the tokenizer of the study's token table."""
    if config.scale == "small":
        return checkpoint.describe(tokenizers.load(tokenizers.DEMO))
    return schema.open_token_table(config.paper.data)[1] if config.paper.data else PAPER_TOKENIZER


# --- Speed ------------------------------------------------------------------------------------------------------------


def _speed(config: ReproduceConfig, experiments: Sequence[Experiment], output: Path) -> Speed:
    if config.scale == "paper":
        return _data_sheet_speed(config)
    trainings = [experiment for experiment in experiments if isinstance(experiment.config, TrainConfig)]
    if not trainings:
        return Speed(math.inf, math.inf, "no training")
    tokenizer = tokenizer_of(config)
    rates = [rate for experiment in trainings if (rate := _finished_rate(experiment, output, tokenizer))]
    rate = mean(rates) if rates else measure_rate(trainings[0].config, tokenizer, config.small.cpus)
    source = f"at the speed of {len(rates)} finished trainings" if rates else "at the speed of a few steps run now"
    return Speed(rate, rate, source)


def _data_sheet_speed(config: ReproduceConfig) -> Speed:
    gpu = gpus.GPUS["float32"]
    one_gpu = gpu.assumed_flops_per_s
    workers, actors = config.paper.num_workers, config.paper.num_actors
    source = (
        f"trainings on {workers} {gpu.name}s, generation on {actors}, "
        f"at {one_gpu / gpu.peak:.0%} of their peak, assumed"
    )
    return Speed(one_gpu * workers, one_gpu * actors, source, actors, SECONDS_PER_TOKEN)


def _finished_rate(experiment: Experiment, output: Path, tokenizer: TokenizerInfo) -> float | None:
    """Return the FLOP/s of a finished training; None if it was resumed, so that its seconds are unknown."""
    record = read_result(experiment, output)
    if not record or not record["seconds"]:
        return None
    network = network_of(experiment.config, tokenizer)
    return parameters_and_flops.run_flops(experiment.config, network) / max(1.0, record["seconds"] - START_S)


def measure_rate(config: TrainConfig, tokenizer: TokenizerInfo, cpus: int) -> float:
    """Return the FLOP/s of MEASURED_STEPS training steps of this run on random tokens; the first one is warm-up."""
    parts = config.checkpoint_config(tokenizer.vocab_size, tokenizer.grid)
    network = checkpoint.build(parts).to("cuda" if torch.cuda.is_available() else "cpu")
    engine = BareEngine(Objective(network, config.method, config.objective), config.optim)
    rows, guard = config.optim.batch_size, SpikeGuard(config.optim.max_spike)
    captions = [scene.caption for scene in shapes.sample_train_scenes(rows, seed=0)]
    y = torch.randint(tokenizer.vocab_size, (rows, tokenizer.num_tokens))
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
