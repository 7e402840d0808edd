"""AdamW with its parameter groups, the learning rate of a step (paper, Sec. 4), and EMA weights (ours).

The engine (engine.py, deepspeed_engine.py) takes the steps.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

from emage.config import OptimConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: matrices of linear layers have weight decay; norms, biases, embeddings and positions don't."""
    decay, no_decay = [], []
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_matrix = parameter.ndim == 2 and id(parameter) not in embeddings and "position" not in name
        (decay if is_matrix else no_decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": no_decay, "weight_decay": 0.0}]


class AdamW(torch.optim.AdamW):
    """PyTorch's AdamW that can skip an update: with `skip` set, `step` leaves weights and moments as they are."""

    skip = False

    def step(self, closure: Any = None) -> Any:
        return None if self.skip else super().step(closure)


def adamw(model: nn.Module, config: OptimConfig) -> AdamW:
    """Return AdamW over the model's groups, with one fused kernel per step (paper, Sec. 4)."""
    groups = parameter_groups(model, config.weight_decay)
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def make_ema(model: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of `model` whose weights are an exponential moving average of its weights (ours).

    `update_parameters(model)` updates it. The first update copies the weights. After it the decay at update n is
    (1 + n) / (10 + n), up to `decay`; otherwise the first weights would stay in the average for long.

    Args:
        model: The model that is trained.
        decay: Decay of the average per step, in [0, 1) (`optim.ema`).
    """

    def update(averages: PARAM_LIST, current: PARAM_LIST, num_updates: Tensor | int) -> None:
        n = int(num_updates)
        torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(model, multi_avg_fn=update)


def learning_rate(step: int, config: OptimConfig) -> float:
    """Return the learning rate of a step, counted from 0.

    Linear warm-up over the fraction `optim.warmup` of the steps, then a cosine to 0 (paper, Sec. 4). The first step
    already has a rate above 0: at 0 it would change nothing.
    """
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / max(1, config.steps - warmup)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
