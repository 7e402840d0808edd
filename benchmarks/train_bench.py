"""Part of benchmarks/train.py: its settings, and the networks, training step, rows and clock of its measurements."""

import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import NamedTuple, get_args

import torch
from torch import nn

from emage.config import Precision, TrainConfig, preset
from emage.config import check as check_settings
from emage.config.fields import setting
from emage.data.shapes import sample_train_scenes
from emage.data.token_table import Batch
from emage.methods import METHODS
from emage.methods.masking import ImageRng
from emage.model.device_support import choose, wait_for
from emage.model.transformer import Network
from emage.training.engine import Objective
from emage.training.optimizer import make_optimizer


class Tokens(NamedTuple):
    """Vocabulary and grid of a tokenizer."""

    vocab_size: int
    grid: tuple[int, int]


TOKENS = {"vqgan-demo-f8-512": Tokens(512, (8, 8)), "vqgan-gumbel-f8-8192": Tokens(8192, (32, 32))}


@dataclass(frozen=True)
class TrainBenchmark:
    """Settings of benchmarks/train.py. It has no presets of its own."""

    preset: str = setting("demo", "Preset of training whose model and batch are used.")
    methods: tuple[str, ...] = setting(tuple(METHODS), "Methods.", choices=tuple(METHODS))
    micro_batch_size: int | None = setting(
        None, "Images per step. null: those of the preset.", unit="images", minimum=1
    )
    steps: int = setting(10, "Steps that are timed together.", unit="steps", minimum=1)
    rounds: int = setting(5, "Rounds, after one warm-up round.", unit="rounds", minimum=1)
    precision: tuple[str, ...] = setting(get_args(Precision), "Arithmetic of the network.", choices=get_args(Precision))
    compile: tuple[bool, ...] = setting((False, True), "Without and with torch.compile of the two networks.")
    device: str = setting("auto", "cpu, cuda, cuda:N, or auto: cuda if available.")
    memory: bool = setting(True, "On a GPU: also find the largest micro-batch, by trying.")
    pipeline: bool = setting(
        True, "Also compare Ray Train and DeepSpeed with a bare loop; needs a tokenizer that is shipped."
    )
    results: str | None = setting(None, "JSON file for the numbers. null: none is written.")


class Variant(NamedTuple):
    """A precision, with or without torch.compile."""

    precision: Precision
    compiled: bool

    def __str__(self) -> str:
        return f"{self.precision}{', compiled' if self.compiled else ''}"


class Bench(NamedTuple):
    """Settings of the benchmark and of the training that it times, the tokens, and the device."""

    settings: TrainBenchmark
    config: TrainConfig
    tokens: Tokens
    device: torch.device


def check(settings: TrainBenchmark) -> torch.device:
    """Return the device. Raise InputError for an invalid setting."""
    check_settings(settings)
    return torch.device(choose(settings.device))


def training_config(settings: TrainBenchmark) -> TrainConfig:
    """Return the preset's run with one micro-batch per step. Raise InputError for an unknown preset."""
    config = preset(TrainConfig, settings.preset, data={"path": "unused"}, run={"output": "unused"})
    size = settings.micro_batch_size or config.optim.micro_batch_size
    return replace(config, optim=replace(config.optim, batch_size=size, micro_batch_size=size))


def network_and_optimizer(bench: Bench, causal: bool, compiled: bool = False) -> tuple[Network, torch.optim.Optimizer]:
    """Return a network with random weights, and its optimizer."""
    torch.manual_seed(0)
    network = Network(bench.config.model, bench.tokens.vocab_size, bench.tokens.grid, causal).to(bench.device)
    if compiled:
        network.text.compile()
        network.decoder.compile()
    return network, make_optimizer(network, bench.config.optim)


def bare_step(
    method: str,
    network: Network,
    optimizer: torch.optim.Optimizer,
    config: TrainConfig,
    forward: AbstractContextManager,
) -> Callable[[Batch], None]:
    """Return one training step in bare PyTorch: loss, gradients, clipping, optimizer."""
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
    """Return captions of the toy world and random tokens: the cost of a step does not depend on them."""
    captions = [scene.caption for scene in sample_train_scenes(size, seed=0)]
    n = tokens.grid[0] * tokens.grid[1]
    y = torch.randint(0, tokens.vocab_size, (size, n), generator=torch.Generator().manual_seed(0))
    return Batch(list(range(size)), captions, y, list(range(size)))


def in_turns(works: Mapping[str, Callable[[], object]], bench: Bench) -> dict[str, float]:
    """Return the median seconds of each work over the rounds, without the first round, which is warm-up."""
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
