"""The training step and the loop around it, for any engine (engine.py).

It does not depend on Ray, files or tracking: a callback gets each step's metrics.
"""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from emage.config import OptimConfig, TrainConfig
from emage.data.token_table import Batch, TokenTable
from emage.methods import METHODS
from emage.methods.masking import ImageRng
from emage.training.engine import SINGLE_PROCESS, DistributedContext, Engine
from emage.training.optimizer import learning_rate
from emage.training.spike_guard import SpikeGuard
from emage.training.step_metrics import SUMS, Metrics, batch_checksum, metrics_from_sums, micro_batch_sums


def fit(
    engine: Engine,
    table: TokenTable,
    config: TrainConfig,
    on_step: Callable[[int, Metrics, Batch], bool | None],
    *,
    start: int = 0,
    distributed: DistributedContext = SINGLE_PROCESS,
    ema: AveragedModel | None = None,
    guard: SpikeGuard | None = None,
) -> None:
    """Train from step `start` to `config.optim.steps`.

    Args:
        engine: Runs the network and updates it.
        table: The rows, in training order.
        config: The run's settings.
        on_step: Called after each step with the number of steps done, the step's metrics and this rank's rows; training
            ends early if it returns True.
        start: Steps done before.
        distributed: This process among the ranks.
        ema: EMA weights to update after each applied step (optimizer.make_ema).
        guard: Decides which steps are skipped; a resumed run passes its own.
    """
    guard = guard or SpikeGuard(config.optim.max_spike)
    warm_start = config.objective.warm_start if METHODS[config.method].TWO_PASSES else 0.0
    warm_steps = round(warm_start * config.optim.steps)
    for step, batch, waited in _prefetched(table, config.optim, start, distributed):
        values = train_step(
            engine,
            batch,
            config,
            guard,
            lr=learning_rate(step, config.optim),
            in_warm_start=step < warm_steps,
            progress=step / config.optim.steps,
            distributed=distributed,
        )
        if ema is not None and not values["skipped"]:
            ema.update_parameters(engine.objective.network)
        if on_step(step + 1, values | {"data_wait_s": waited}, batch):
            return


def train_step(
    engine: Engine,
    batch: Batch,
    config: TrainConfig,
    guard: SpikeGuard,
    *,
    lr: float,
    in_warm_start: bool,
    progress: float = 1.0,
    distributed: DistributedContext = SINGLE_PROCESS,
) -> Metrics:
    """Update the weights once from this rank's rows, in micro-batches.

    The loss is the sum over its tokens divided by their number in the whole global batch, which is known before the
    first forward pass: no token weighs more because of the rank or the micro-batch that it is in.

    Args:
        engine: Runs the network and updates it.
        batch: This rank's rows of the step.
        config: The run's settings.
        guard: Decides from the loss whether the update is applied, and records the step.
        lr: Learning rate of the step.
        in_warm_start: Train by iterative1.
        progress: Fraction of the training's steps that were done before this one.
        distributed: This process among the ranks.

    Returns:
        The step's metrics over all ranks, as step_metrics.METRICS describes them.
    """
    text, device = engine.objective.network.text, engine.device
    captions = _drop_captions(batch, config.objective.caption_dropout)
    method, n = engine.objective.active_method(in_warm_start), batch.y.shape[1]
    scored = method.num_scored(n, config.objective, ImageRng(batch.seeds), progress).sum()
    count = sum_over_ranks(scored.double(), device).item()
    sums = torch.zeros(len(SUMS), dtype=torch.float64)
    sums[SUMS.index("samples")] = batch_checksum(batch.uid, batch.seeds)
    sums[SUMS.index("time")] = 0.0 if distributed.rank else time.time()
    for rows in micro_batches(config.optim, len(batch.uid), distributed.world_size):
        y = batch.y[rows].to(device)
        ids, truncated = (part.to(device) for part in text.tokenize(captions[rows]))
        loss = engine.forward(ids, y, ImageRng(batch.seeds[rows], device), in_warm_start, progress)
        engine.backward(loss.total / count)
        sums += micro_batch_sums(loss, y, truncated).cpu()
    totals = dict(zip(SUMS, sum_over_ranks(sums, device).tolist(), strict=True))
    assert totals["count"] == count, "a method must score as many positions as its num_scored returns"
    accepted = guard.accepts(totals["loss"] / count)
    norm = engine.step(lr, accepted)
    applied = accepted and math.isfinite(norm)
    guard.record(totals["loss"] / count, applied)
    vocab_size = engine.objective.network.decoder.head.out_features
    return {**metrics_from_sums(totals, vocab_size), "lr": lr, "grad_norm": norm, "skipped": float(not applied)}


def micro_batches(optim: OptimConfig, rows: int, world_size: int) -> list[slice]:
    """Return the slices of a rank's `rows`: equally many on every rank, none larger than `optim.micro_batch_size`."""
    count = accumulation(optim, world_size)
    return [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]


def accumulation(optim: OptimConfig, world_size: int) -> int:
    """Return how many micro-batches each rank accumulates per step."""
    most_rows = -(-optim.batch_size // world_size)
    return -(-most_rows // optim.micro_batch_size)


def sum_over_ranks(x: Tensor, device: torch.device) -> Tensor:
    """Return the sum of every rank's `x`, on the CPU."""
    if dist.is_initialized():
        x = x.to(device)
        dist.all_reduce(x)
    return x.cpu()


def _prefetched(
    table: TokenTable, optim: OptimConfig, start: int, distributed: DistributedContext
) -> Iterator[tuple[int, Batch, float]]:
    """Yield (step, batch, seconds waited for it) from `start` on, while a thread reads the next batch."""
    with ThreadPoolExecutor(max_workers=1) as reader:

        def read(step: int):
            return reader.submit(table.batch, step, optim.batch_size, distributed.rank, distributed.world_size)

        following = read(start)
        for step in range(start, optim.steps):
            began = time.monotonic()
            batch = following.result()
            waited = time.monotonic() - began
            following = read(step + 1)
            yield step, batch, waited


def _drop_captions(batch: Batch, probability: float) -> list[str]:
    """Return the captions, each replaced by "" (the unconditional input of guidance) with this probability."""
    if not probability:
        return batch.captions
    # A separate generator: the masks must be the same with and without dropout.
    u = ImageRng([seed ^ 1 for seed in batch.seeds]).uniform(1)[:, 0].tolist()
    return ["" if u < probability else caption for u, caption in zip(u, batch.captions, strict=True)]
