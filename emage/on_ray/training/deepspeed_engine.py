"""DeepSpeed as an Engine of emage/training/engine.py: ZeRO, and the optimizer's state as whole tensors.

DeepSpeed's own checkpoint files belong to one number of ranks and one ZeRO stage. This engine returns and takes whole
tensors under the parameters' names, which do not depend on either.
"""

import logging
import math
import os
from typing import Any

import torch
from torch import Tensor

from emage.config import TrainConfig
from emage.methods.base import Loss
from emage.training.engine import Objective
from emage.training.estimate.memory_and_disk import REDUCE_BUCKET_SIZE
from emage.training.loop import accumulation
from emage.training.optimizer import ADAMW_MOMENTS, make_optimizer, moment_names, set_lr


class DeepSpeedEngine:
    """Trains with DeepSpeed. Load the weights into `objective` before: ZeRO copies them.

    Args:
        objective: Network and loss.
        config: The run's settings.
        world_size: Number of ranks.
    """

    def __init__(self, objective: Objective, config: TrainConfig, world_size: int):
        # The accelerator must be named before the import: on a CPU with CUDA libraries installed, the guess is wrong.
        os.environ.setdefault("DS_ACCELERATOR", "cuda" if config.run.use_gpu else "cpu")
        import deepspeed

        # It warns of what is intended: our optimizer, skipped steps.
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        # A compiled collective for inference, not needed here; building it takes a minute and a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        self._optim, self._is_zero, self._world_size = config.optim, config.run.zero_stage > 0, world_size
        # PyTorch's, as in BareEngine: DeepSpeed's own AdamW would have to be compiled first.
        self._optimizer = make_optimizer(objective, config.optim)
        self._moment_names = moment_names(self._optimizer)
        self._engine, _, _, _ = deepspeed.initialize(
            model=objective,
            optimizer=self._optimizer,
            config={
                "train_micro_batch_size_per_gpu": config.optim.micro_batch_size,
                "gradient_accumulation_steps": accumulation(config.optim, world_size),
                "gradient_clipping": config.optim.clip_norm if self._is_zero else 0.0,  # without ZeRO `step` clips
                "zero_optimization": {"stage": config.run.zero_stage, "reduce_bucket_size": REDUCE_BUCKET_SIZE},
                "zero_allow_untested_optimizer": True,  # our subclass of PyTorch's AdamW
                "steps_per_print": 1 << 30,
                "wall_clock_breakdown": False,
            },
        )
        self.objective = objective
        self.device = torch.device(self._engine.device)  # type: ignore[arg-type]
        self._allocate(updates=0)

    def forward(self, *args) -> Loss:
        return self._engine(*args)

    def backward(self, loss_part: Tensor) -> None:
        # DeepSpeed takes the mean over ranks; here the parts of all ranks add up.
        self._engine.backward(loss_part * self._world_size, scale_wrt_gas=False)
        if not self._engine.is_gradient_accumulation_boundary():
            self._engine.step()  # DeepSpeed counts micro-batches by this call

    def step(self, lr: float, apply_update: bool) -> float:
        set_lr(self._optimizer, lr)
        if self._is_zero:  # each rank holds a part of the gradient; DeepSpeed itself skips a norm that is not finite
            self._optimizer.skip = not apply_update
            self._engine.step()
            return float(self._engine.get_global_grad_norm() or 0.0)
        norm = float(torch.nn.utils.clip_grad_norm_(self.objective.parameters(), self._optim.clip_norm))
        self._optimizer.skip = not (apply_update and math.isfinite(norm))
        self._engine.step()
        return norm

    def moments(self, keep: bool = True) -> dict[str, Tensor]:
        """Return the optimizer's state on the CPU: "exp_avg.NAME" and "exp_avg_sq.NAME" of AdamW's parameters,
        "momentum_buffer.NAME" of Muon's.

        All ranks must call it together, since each holds a part.

        Args:
            keep: False on ranks that do not need the result, which is twice the size of the weights; they get {}.
        """
        from deepspeed.utils import safe_get_full_optimizer_state

        whole = {}
        for name, parameter in self._trained():
            for key in self._moment_names[parameter]:
                if self._is_zero:
                    value = safe_get_full_optimizer_state(parameter, key)
                else:
                    value = self._optimizer.state[parameter][key].clone()
                if keep:
                    whole[f"{key}.{name}"] = value.cpu()  # type: ignore[union-attr]
        return whole

    def restore(self, moments: dict[str, Tensor], updates: int) -> None:
        """Load what `moments` returned after `updates` updates, with any number of ranks and any ZeRO stage."""
        from deepspeed.utils import safe_set_full_optimizer_state

        self._allocate(updates)
        for name, parameter in self._trained():
            for key in self._moment_names[parameter]:
                value = moments[f"{key}.{name}"].to(self.device)
                if self._is_zero:
                    safe_set_full_optimizer_state(parameter, value, key)
                else:
                    self._optimizer.state[parameter][key].copy_(value)

    def _trained(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [(name, p) for name, p in self.objective.network.named_parameters() if p.requires_grad]

    def _allocate(self, updates: int) -> None:
        """Allocate the state as zeros. The optimizer does it at its first update, too late to load or to skip."""
        for group in self._optimizer.param_groups:
            for held in group["params"]:  # with ZeRO, this rank's part of all parameters, as one vector
                steps = torch.tensor(float(updates), device=held.device)
                names = self._moment_names.get(held, ADAMW_MOMENTS)
                zeros = {key: torch.zeros_like(held) for key in names}
                self._optimizer.state[held] = {"step": steps, **zeros}
        if self._is_zero:
            zero: Any = self._engine.optimizer  # maps parameters to their state after the first update, in these two
            zero._hp_optimizer_states_linked = False
            zero._lazy_init_hp_params_optimizer_state()
