"""AdamW with its parameter groups, the learning rate of a step (paper, Sec. 4); Muon and EMA weights (ours).

The engine (engine.py, deepspeed_engine.py) takes the steps.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import PARAM_LIST, AveragedModel

from emage.config import OptimConfig

ADAMW_MOMENTS, MUON_MOMENTS = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)  # PyTorch's names


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups: matrices of linear layers have weight decay; norms, biases, embeddings and positions don't."""
    decay, no_decay = [], []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (decay if is_matrix(model, name, parameter) else no_decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": no_decay, "weight_decay": 0.0}]


def is_matrix(model: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Return whether a parameter is the matrix of a linear layer, not a table of embeddings or positions."""
    is_embedding = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding)
    return parameter.ndim == 2 and not is_embedding and "position" not in name


class AdamW(torch.optim.AdamW):
    """PyTorch's AdamW that can skip an update: with `skip` set, `step` leaves weights and moments as they are."""

    skip = False

    def step(self, closure: Any = None) -> Any:
        return None if self.skip else super().step(closure)


def _adamw(groups: list[dict[str, Any]], config: OptimConfig) -> AdamW:
    return AdamW(groups, lr=config.lr, betas=(config.beta1, config.beta2), fused=True)


class MuonAndAdamW(torch.optim.Optimizer):
    """PyTorch's Muon for the matrices of hidden layers, AdamW for all other parameters; `skip` as in `AdamW`.

    Muon's updates are scaled to the size of AdamW's (`match_rms_adamw`), so that both take the same learning rate.

    Args:
        matrices: A parameter group for Muon.
        others: Parameter groups for AdamW.
        config: Learning rate and AdamW's betas.
    """

    skip = False

    def __init__(self, matrices: dict[str, Any], others: list[dict[str, Any]], config: OptimConfig):
        muon = torch.optim.Muon([matrices], lr=config.lr, adjust_lr_fn="match_rms_adamw")
        adamw = _adamw(others, config)
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        muon.state = adamw.state = self.state
        self._parts = muon, adamw

    def step(self, closure: Any = None) -> None:
        """Update all parameters once, or none with `skip`."""
        assert closure is None
        for part in () if self.skip else self._parts:
            part.step()


def make_optimizer(model: nn.Module, config: OptimConfig) -> AdamW | MuonAndAdamW:
    """Return the optimizer `optim.optimizer`, AdamW (paper, Sec. 4) or Muon (ours), with the model's groups."""
    groups = parameter_groups(model, config.weight_decay)
    if config.optimizer == "adamw":
        return _adamw(groups, config)
    hidden = set(hidden_matrices(model))
    matrices = {**groups[0], "params": [p for p in groups[0]["params"] if p in hidden]}
    last = {**groups[0], "params": [p for p in groups[0]["params"] if p not in hidden]}
    return MuonAndAdamW(matrices, [last, groups[1]], config)


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that Muon takes: matrices of all linear layers but the head, whose output is no state."""
    return [
        parameter
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and is_matrix(model, name, parameter) and not name.endswith("head.weight")
    ]


def moment_names(optimizer: AdamW | MuonAndAdamW) -> dict[nn.Parameter, tuple[str, ...]]:
    """Return the names of the moments that the optimizer keeps for each parameter."""
    return {
        parameter: MUON_MOMENTS if "ns_steps" in group else ADAMW_MOMENTS
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


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
