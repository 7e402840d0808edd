"""The training step and the loop around it, for any engine: a bare PyTorch one here, DeepSpeed's in on_ray.

Nothing here knows Ray, files or tracking; what a run shows goes through a callback.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from emage.config import ObjectiveConfig, OptimConfig, TrainConfig
from emage.masking import MASK, PictureRng, random_mask
from emage.methods import METHODS
from emage.methods.terms import Loss
from emage.model import Network
from emage.optim import adamw, learning_rate
from emage.token_table import Batch, TokenTable

Metrics = dict[str, float]


class Objective(nn.Module):
    """Network and method as one module: an engine's forward pass is a method's loss."""

    def __init__(self, network: Network, method: str, objective: ObjectiveConfig):
        super().__init__()
        self.network, self.method, self.objective = network, method, objective

    def forward(self, ids: Tensor, y: Tensor, rng: PictureRng, warming: bool) -> Loss:
        """Caption ids (B,S) and tokens (B,N) -> the method's loss; iterative1's while warming up."""
        method = METHODS["iterative1" if warming else self.method]
        return method.loss(self.network.decoder, y, self.network.read(ids), self.objective, rng)


class Engine(Protocol):
    """Runs the objective and takes the steps."""

    objective: Objective
    device: torch.device

    def forward(self, *args) -> Loss: ...

    def backward(self, loss: Tensor) -> None: ...

    def step(self, lr: float) -> float:
        """One update with the gradients of all `backward` calls since the last; returns their norm before clipping."""
        ...


class BareEngine:
    """PyTorch alone, one process. What DeepSpeed is compared with, and what tests use."""

    def __init__(self, objective: Objective, config: OptimConfig):
        self.objective, self._config = objective, config
        self.device = next(objective.parameters()).device
        self._optimizer = adamw(objective, config)

    def forward(self, *args) -> Loss:
        return self.objective(*args)

    def backward(self, loss: Tensor) -> None:
        accumulation = self._config.batch_size // self._config.micro_batch_size
        (loss / accumulation).backward()

    def step(self, lr: float) -> float:
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        norm = nn.utils.clip_grad_norm_(self.objective.parameters(), self._config.clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return float(norm)


def fit(
    engine: Engine,
    table: TokenTable,
    config: TrainConfig,
    on_step: Callable[[int, Metrics, Batch], None],
    *,
    start: int = 0,
    rank: int = 0,
    world_size: int = 1,
    average: AveragedModel | None = None,
) -> None:
    """Trains from step `start` to `config.optim.steps`; after each, `on_step(steps done, metrics, batch)`.

    `average` (optim.averaged) follows the network's weights.
    """
    warm_share = config.objective.warm_start if METHODS[config.method].TWO_PASSES else 0.0
    warm_steps = round(warm_share * config.optim.steps)
    for step, batch in _prefetched(table, config.optim, start, rank, world_size):
        metrics = train_step(engine, batch, config, lr=learning_rate(step, config.optim), warming=step < warm_steps)
        if average is not None:
            average.update_parameters(engine.objective.network)
        on_step(step + 1, metrics, batch)


def train_step(engine: Engine, batch: Batch, config: TrainConfig, *, lr: float, warming: bool) -> Metrics:
    """One update from this rank's rows, in micro-batches. The metrics are over all ranks.

    captions_cut is the share of the captions, as they were read, that did not fit: one that was dropped always fits.
    """
    sums = torch.zeros(8)
    dropped = _dropped_captions(batch, config.objective.caption_dropout)
    for i in range(0, len(batch.uid), config.optim.micro_batch_size):
        rows = slice(i, i + config.optim.micro_batch_size)
        y = batch.y[rows].to(engine.device)
        ids, cut = (part.to(engine.device) for part in engine.objective.network.text.tokenize(dropped[rows]))
        loss = engine.forward(ids, y, PictureRng(batch.seeds[rows], engine.device), warming)
        # A rank with few masked tokens must not weigh as much as one with many: divide by the mean over ranks.
        engine.backward(loss.total / _mean_over_ranks(loss.count.float()))
        sums += _statistics(loss, y, cut).cpu()
    norm = engine.step(lr)
    sums = _sum_over_ranks(sums, engine.device)
    total, count, masked_right, masked, visible_right, visible, captions_cut, captions_whole = sums.tolist()
    metrics = {"loss": total / count, "lr": lr, "grad_norm": norm}
    metrics["captions_cut"] = captions_cut / (captions_cut + captions_whole)
    metrics["accuracy_masked"] = masked_right / max(1, masked)
    if visible:
        metrics["accuracy_visible"] = visible_right / visible
    return metrics


@torch.no_grad()
def context_gain(network: Network, batch: Batch, rows: int) -> Metrics:
    """The probe of whether the network reads the picture it is given: near 0 means that it ignores it.

    context_gain is the accuracy on the masked half of true pictures, minus that on the same positions with nothing
    shown. visible_gain is the same for the half that is shown, and means something for #3 alone, which is asked about
    it. The loss does not tell: #3 can settle where it answers from the caption alone.
    """
    device = network.decoder.head.weight.device
    y = batch.y[:rows].to(device)  # no more than fit in a micro-batch
    n = y.shape[1]
    hidden = random_mask(torch.full((len(y),), n // 2, device=device), n, PictureRng(batch.seeds[:rows], device))
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
    table: TokenTable, optim: OptimConfig, start: int, rank: int, world_size: int
) -> Iterator[tuple[int, Batch]]:
    """(step, batch) from `start` on, the next batch read by a thread while this one is worked on."""
    with ThreadPoolExecutor(max_workers=1) as reader:

        def read(step: int):
            return reader.submit(table.batch, step, optim.batch_size, rank, world_size)

        following = read(start)
        for step in range(start, optim.steps):
            batch = following.result()
            following = read(step + 1)
            yield step, batch


def _dropped_captions(batch: Batch, share: float) -> list[str]:
    """The captions with a `share` of them replaced by "": what guidance later calls unconditional."""
    if not share:
        return batch.captions
    # A generator of its own: the masks must be the same with and without dropout.
    u = PictureRng([seed ^ 1 for seed in batch.seeds]).uniform(1)[:, 0].tolist()
    return ["" if u < share else caption for u, caption in zip(u, batch.captions, strict=True)]


@torch.no_grad()
def _statistics(loss: Loss, y: Tensor, cut: Tensor) -> Tensor:
    """Sums: [loss, count, right where masked, masked, right where visible, visible, captions cut, whole], (8,)."""
    right, masked = loss.logits.argmax(-1) == y, loss.masked
    sums = [loss.total, loss.count, (right & masked).sum(), masked.sum(), (right & ~masked).sum(), (~masked).sum()]
    return torch.stack([value.float() for value in (*sums, cut.sum(), (~cut).sum())])


def _mean_over_ranks(x: Tensor) -> Tensor:
    if dist.is_initialized():
        dist.all_reduce(x)
        return x / dist.get_world_size()
    return x


def _sum_over_ranks(x: Tensor, device: torch.device) -> Tensor:
    if dist.is_initialized():
        x = x.to(device)
        dist.all_reduce(x)
    return x
