"""The network with its loss, and the engines that run it: plain PyTorch here, DeepSpeed in emage/on_ray/training.

Letters: B images, N image tokens, S text positions.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from emage.config import ObjectiveConfig, OptimConfig
from emage.methods import METHODS, MethodModule
from emage.methods.base import Loss
from emage.methods.masking import ImageRng
from emage.model.transformer import Network
from emage.training.optimizer import make_optimizer, set_lr
from emage.utils.torch_compile import compiled


class Objective(nn.Module):
    """Network and method as one module, whose forward pass is the method's loss.

    Args:
        network: The network to train.
        method: A name in METHODS.
        objective: Settings of the loss.
        autocast: Context of a forward pass, from `device_support.set_precision`; None: float32.
        compile: Run the decoder compiled (torch.compile).
    """

    def __init__(
        self,
        network: Network,
        method: str,
        objective: ObjectiveConfig,
        autocast: AbstractContextManager | None = None,
        compile: bool = False,
    ) -> None:
        super().__init__()
        self.network, self.method, self.objective = network, method, objective
        self.autocast, self.is_compiled = autocast or nullcontext(), compile

    def forward(self, ids: Tensor, y: Tensor, rng: ImageRng, in_warm_start: bool, progress: float = 1.0) -> Loss:
        """Return the loss of a batch.

        Args:
            ids: Caption ids (B,S).
            y: Image tokens (B,N).
            rng: One generator per image.
            in_warm_start: Train by iterative1.
            progress: Fraction of the training's steps that are done (MethodModule.loss).
        """
        with self.autocast, compiled(self.is_compiled):
            return self.active_method(in_warm_start).loss(
                self.network.decoder, y, self.network.encode_text(ids), self.objective, rng, progress
            )

    def active_method(self, in_warm_start: bool) -> MethodModule:
        """Return the method that a step is trained by: iterative1 in the warm start (ours)."""
        return METHODS["iterative1" if in_warm_start else self.method]


@dataclass(frozen=True)
class DistributedContext:
    """The rank of this process, counted from 0, and the number of processes that train together."""

    rank: int = 0
    world_size: int = 1


SINGLE_PROCESS = DistributedContext()


class Engine(Protocol):
    """Runs the objective and updates its weights."""

    objective: Objective
    device: torch.device

    def forward(self, *args) -> Loss:
        """Call the objective."""
        ...

    def backward(self, loss_part: Tensor) -> None:
        """Accumulate the gradient of one micro-batch's part of the loss; all parts of all ranks sum to the loss."""
        ...

    def step(self, lr: float, apply_update: bool) -> float:
        """Update the weights once, with the gradients of all `backward` calls since the last update.

        Weights and optimizer state stay as they are if `apply_update` is False or the gradient norm is not finite.

        Returns:
            The gradient norm before clipping.
        """
        ...


class BareEngine:
    """Plain PyTorch in one process, for tests and benchmarks: the reference for the DeepSpeed engine."""

    def __init__(self, objective: Objective, config: OptimConfig):
        self.objective, self._config = objective, config
        self.device = next(objective.parameters()).device
        self._optimizer = make_optimizer(objective, config)

    def forward(self, *args) -> Loss:
        return self.objective(*args)

    def backward(self, loss_part: Tensor) -> None:
        loss_part.backward()

    def step(self, lr: float, apply_update: bool) -> float:
        set_lr(self._optimizer, lr)
        norm = float(nn.utils.clip_grad_norm_(self.objective.parameters(), self._config.clip_norm))
        if apply_update and math.isfinite(norm):
            self._optimizer.step()
        self._optimizer.zero_grad()
        return norm

    def optimizer_state(self) -> dict[str, dict[str, Tensor]]:
        """Return the optimizer's state of each parameter, by the parameter's name in the network."""
        named = self.objective.network.named_parameters()
        return {name: self._optimizer.state[parameter] for name, parameter in named}

    def load_optimizer_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Continue from a state that `optimizer_state` has returned, of the same network and optimizer."""
        for name, parameter in self.objective.network.named_parameters():
            self._optimizer.state[parameter] = state[name]  # not load_state_dict: Muon and AdamW share one dict
