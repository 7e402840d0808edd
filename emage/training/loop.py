"""The training step and the loop around it, for any engine: a bare PyTorch one here, DeepSpeed's in on_ray.

Nothing here knows Ray, files or tracking; what a run shows goes through a callback.
"""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from emage.config import ObjectiveConfig, OptimConfig, TrainConfig
from emage.data.token_table import Batch, TokenTable
from emage.methods import METHODS
from emage.methods.base import Loss, num_scored
from emage.methods.masking import MASK, ImageRng, random_mask
from emage.model.transformer import Network
from emage.training.optimizer import adamw, learning_rate, set_lr
from emage.training.spike_guard import SpikeGuard
from emage.training.step_metrics import SUMS, Metrics, batch_checksum, metrics_from_sums, micro_batch_sums
from emage.utils.torch_compile import compiled


class Objective(nn.Module):
    """Network and method as one module: an engine's forward pass is a method's loss."""

    def __init__(
        self,
        network: Network,
        method: str,
        objective: ObjectiveConfig,
        autocast: AbstractContextManager | None = None,
        compile: bool = False,
    ) -> None:
        """`autocast`: what a forward pass runs in (devices.set_precision). `compile`: fuses the decoder's passes."""
        super().__init__()
        self.network, self.method, self.objective = network, method, objective
        self.autocast, self.compile_passes = autocast or nullcontext(), compile

    def forward(self, ids: Tensor, y: Tensor, rng: ImageRng, in_warm_start: bool) -> Loss:
        """Caption ids (B,S) and tokens (B,N) -> the method's loss; iterative1's while warming up."""
        with self.autocast, compiled(self.compile_passes):
            return self.active_method(in_warm_start).loss(
                self.network.decoder, y, self.network.read(ids), self.objective, rng
            )

    def active_method(self, in_warm_start: bool) -> ModuleType:
        """The method that a step is trained by."""
        return METHODS["iterative1" if in_warm_start else self.method]


@dataclass(frozen=True)
class DistributedContext:
    """This process's place among those that train together."""

    rank: int = 0
    world_size: int = 1


SINGLE_PROCESS = DistributedContext()


class Engine(Protocol):
    """Runs the objective and takes the steps."""

    objective: Objective
    device: torch.device

    def forward(self, *args) -> Loss: ...

    def backward(self, part: Tensor) -> None:
        """Adds the gradient of a part of the loss. The parts of all micro-batches and ranks add up to a step's loss."""
        ...

    def step(self, lr: float, take: bool) -> float:
        """One update with the gradients of all `backward` calls since the last; returns their norm before clipping.

        Without `take`, or where the norm is not finite, weights and moments stay as they are.
        """
        ...


class BareEngine:
    """PyTorch alone, one process. What DeepSpeed is compared with, and what tests use."""

    def __init__(self, objective: Objective, config: OptimConfig):
        self.objective, self._config = objective, config
        self.device = next(objective.parameters()).device
        self._optimizer = adamw(objective, config)

    def forward(self, *args) -> Loss:
        return self.objective(*args)

    def backward(self, part: Tensor) -> None:
        part.backward()

    def step(self, lr: float, take: bool) -> float:
        set_lr(self._optimizer, lr)
        norm = float(nn.utils.clip_grad_norm_(self.objective.parameters(), self._config.clip_norm))
        if take and math.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm


def fit(
    engine: Engine,
    table: TokenTable,
    config: TrainConfig,
    on_step: Callable[[int, Metrics, Batch], bool | None],
    *,
    start: int = 0,
    ranks: DistributedContext = SINGLE_PROCESS,
    average: AveragedModel | None = None,
    guard: SpikeGuard | None = None,
) -> None:
    """Trains from step `start` to `config.optim.steps`; after each, `on_step(steps done, metrics, batch)`.

    It ends early where `on_step` returns True. `average` (optim.averaged) follows the network's weights. `guard` says
    which steps are skipped; a resumed run brings its own.
    """
    guard = guard or SpikeGuard(config.optim.max_spike)
    warm_share = config.objective.warm_start if METHODS[config.method].TWO_PASSES else 0.0
    warm_steps = round(warm_share * config.optim.steps)
    for step, batch, waited in _prefetched(table, config.optim, start, ranks):
        lr = learning_rate(step, config.optim)
        values = train_step(engine, batch, config, guard, lr=lr, in_warm_start=step < warm_steps, ranks=ranks)
        if average is not None and not values["skipped"]:
            average.update_parameters(engine.objective.network)
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
    ranks: DistributedContext = SINGLE_PROCESS,
) -> Metrics:
    """One update from this rank's rows, in micro-batches. The metrics are over all ranks.

    The loss is the sum over its tokens divided by their number in the whole global batch, known before the first
    forward pass: no token weighs more for the rank or the micro-batch that it is in.
    captions_cut is the share of the captions, as they were read, that did not fit: one that was dropped always fits.
    """
    text, device = engine.objective.network.text, engine.device
    dropped = _dropped_captions(batch, config.objective.caption_dropout)
    scored = num_scored(
        engine.objective.active_method(in_warm_start), batch.y.shape[1], config.objective, ImageRng(batch.seeds)
    ).sum()
    count = sum_over_ranks(scored.double(), device).item()
    sums = torch.zeros(len(SUMS), dtype=torch.float64)
    sums[SUMS.index("samples")] = batch_checksum(batch.uid, batch.seeds)
    sums[SUMS.index("time")] = 0.0 if ranks.rank else time.time()
    for rows in micro_batches(config.optim, len(batch.uid), ranks.world_size):
        y = batch.y[rows].to(device)
        ids, cut = (part.to(device) for part in text.tokenize(dropped[rows]))
        loss = engine.forward(ids, y, ImageRng(batch.seeds[rows], device), in_warm_start)
        engine.backward(loss.total / count)
        sums += micro_batch_sums(loss, y, cut).cpu()
    found = dict(zip(SUMS, sum_over_ranks(sums, device).tolist(), strict=True))
    assert found["count"] == count, "a method must score as many positions as it said beforehand"
    take = guard.accepts(found["loss"] / count)
    norm = engine.step(lr, take)
    taken = take and math.isfinite(norm)
    guard.note(found["loss"] / count, taken)
    vocab_size = engine.objective.network.decoder.head.out_features
    return {**metrics_from_sums(found, vocab_size), "lr": lr, "grad_norm": norm, "skipped": float(not taken)}


def micro_batches(optim: OptimConfig, rows: int, world_size: int) -> list[slice]:
    """How a rank's `rows` of a global batch are cut: as many parts on every rank, none larger than a micro-batch."""
    parts = accumulation(optim, world_size)
    return [slice(rows * i // parts, rows * (i + 1) // parts) for i in range(parts)]


def accumulation(optim: OptimConfig, world_size: int) -> int:
    """Micro-batches that a rank goes through for one step, whatever the number of ranks."""
    largest_share = -(-optim.batch_size // world_size)
    return -(-largest_share // optim.micro_batch_size)


@torch.no_grad()
def context_gain(network: Network, batch: Batch, rows: int) -> Metrics:
    """The probe of whether the network reads the image it is given: near 0 means that it ignores it.

    context_gain is the accuracy on the masked half of true images, minus that on the same positions with nothing
    shown. visible_gain is the same for the half that is shown, and means something for #3 alone, which is asked about
    it. The loss does not tell: #3 can settle where it answers from the caption alone.
    """
    device = network.decoder.head.weight.device
    y = batch.y[:rows].to(device)  # no more than fit in a micro-batch
    n = y.shape[1]
    hidden = random_mask(torch.full((len(y),), n // 2, device=device), n, ImageRng(batch.seeds[:rows], device))
    ids, _ = network.text.tokenize(batch.captions[:rows])
    context = network.read(ids.to(device))
    seen = network.decoder(y.masked_fill(hidden, MASK), context).argmax(-1) == y
    blind = network.decoder(torch.full_like(y, MASK), context).argmax(-1) == y
    share = {"seen": seen[hidden], "blind": blind[hidden], "visible": seen[~hidden], "unseen": blind[~hidden]}
    accuracy = {name: right.float().mean().item() for name, right in share.items()}
    return {
        "context_gain": accuracy["seen"] - accuracy["blind"],
        "visible_gain": accuracy["visible"] - accuracy["unseen"],
        "accuracy_blind": blind.float().mean().item(),
    }


# --- Parts ------------------------------------------------------------------------------------------------------------


def _prefetched(
    table: TokenTable, optim: OptimConfig, start: int, ranks: DistributedContext
) -> Iterator[tuple[int, Batch, float]]:
    """(step, batch, seconds waited for it) from `start` on; the next batch is read by a thread meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as reader:

        def read(step: int):
            return reader.submit(table.batch, step, optim.batch_size, ranks.rank, ranks.world_size)

        following = read(start)
        for step in range(start, optim.steps):
            began = time.monotonic()
            batch = following.result()
            waited = time.monotonic() - began
            following = read(step + 1)
            yield step, batch, waited


def _dropped_captions(batch: Batch, share: float) -> list[str]:
    """The captions with a `share` of them replaced by "": what guidance later calls unconditional."""
    if not share:
        return batch.captions
    # A generator of its own: the masks must be the same with and without dropout.
    u = ImageRng([seed ^ 1 for seed in batch.seeds]).uniform(1)[:, 0].tolist()
    return ["" if u < share else caption for u, caption in zip(u, batch.captions, strict=True)]


def sum_over_ranks(x: Tensor, device: torch.device) -> Tensor:
    """The sum of every rank's `x`, on the CPU."""
    if dist.is_initialized():
        x = x.to(device)
        dist.all_reduce(x)
    return x.cpu()
