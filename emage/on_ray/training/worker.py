"""One worker of a training run: builds the network, loads the last checkpoint, trains, saves.

The step itself is in emage/training/loop.py. Rank 0 also writes the run's files, metrics and images (recorder.py).
"""

import logging
from pathlib import Path
from typing import NamedTuple, cast

import ray.train
import torch
import torch.distributed as dist
from ray.train import collective
from torch.optim.swa_utils import AveragedModel

from emage.config import TrainConfig
from emage.data.token_table import Batch, TokenTable
from emage.model import checkpoint, device_support, finetune
from emage.model.text import load_published
from emage.model.transformer import Network
from emage.on_ray.training.deepspeed_engine import DeepSpeedEngine
from emage.on_ray.training.recorder import TrainingRecorder
from emage.training import resume_state
from emage.training.engine import DistributedContext, Objective
from emage.training.loop import fit
from emage.training.optimizer import make_ema
from emage.training.resume_state import ResumeState
from emage.training.spike_guard import SpikeGuard
from emage.training.step_metrics import Metrics
from emage.utils import manifest
from emage.utils.errors import InputError

PREEMPTION_CHECK_S = 2.0  # between two checks for a preemption notice: each costs a barrier

_log = logging.getLogger(__name__)


class WorkerState(NamedTuple):
    """The engine of a worker, and the state that training starts or resumes from."""

    engine: DeepSpeedEngine
    ema: AveragedModel | None  # on rank 0, with optim.ema
    guard: SpikeGuard
    start: int  # steps done
    updates: int  # those of them that were applied


def work(config: TrainConfig, output: str) -> str | None:
    """Run one Ray Train worker from the last checkpoint to the end.

    Args:
        config: The run's settings.
        output: The run's folder, which all nodes share.

    Returns:
        None at the end; otherwise the text of what the user must fix before training can continue, the same on all
        ranks.
    """
    context = ray.train.get_context()
    distributed = DistributedContext(context.get_world_rank(), context.get_world_size())
    prepared, error = _prepare(config, output)
    last, checkpoint_error = _last_checkpoint(output) if distributed.rank == 0 else (None, None)
    if first_error := _first_of_all_ranks(error or checkpoint_error):
        return first_error
    assert prepared is not None
    table, network = prepared
    last = collective.broadcast_from_rank_zero(last)
    return Worker(config, output, table, _build_state(config, network, last, distributed), distributed).run()


def _device(config: TrainConfig) -> str:
    return "cuda" if config.run.use_gpu else "cpu"


def _prepare(config: TrainConfig, output: str) -> tuple[tuple[TokenTable, Network] | None, str | None]:
    """Return the table and a network with its initial weights, or the error on this rank's machine."""
    try:
        device_support.check_device(_device(config))
        device_support.check_precision(config.run.precision, _device(config))
        if not (Path(output) / "run.json").exists():
            raise InputError(f"run.output={output}: another folder on this node; use one that all nodes share")
        torch.manual_seed(config.run.seed)
        table = TokenTable(config.data.path, config.run.seed)
        settings = config.checkpoint_config(table.tokenizer.vocab_size, table.tokenizer.grid)
        network = checkpoint.build(settings)
        if not any((Path(output) / "checkpoints").glob("step_*")):
            if config.init:
                finetune.start_from(network, config.init, settings, table.tokenizer)
            else:
                load_published(network.text, config.model)
        return (table, network), None
    except (InputError, ValueError) as error:
        return None, str(error)


def _last_checkpoint(output: str) -> tuple[str | None, str | None]:
    """Return (the checkpoint to resume from or None, None), or (None, the error)."""
    folder = Path(output) / "checkpoints"
    if folder.exists():
        manifest.remove_leftovers(folder)
    try:
        newest = resume_state.newest(folder)
    except InputError as error:
        return None, str(error)
    return str(newest) if newest else None, None


def _first_of_all_ranks(error: str | None) -> str | None:
    """Return the error of the first rank that has one, on all ranks, so that all end; None if there is none."""
    group = dist.new_group(backend="gloo")  # on CPUs: a GPU that PyTorch has no code for may be the error
    errors: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(errors, error, group=group)
    return next(filter(None, errors), None)


def _build_state(
    config: TrainConfig, network: Network, last: str | None, distributed: DistributedContext
) -> WorkerState:
    """Build the engine and load the checkpoint `last`, if there is one."""
    state = resume_state.load(Path(last)) if last else None
    if state:
        network.load_state_dict(state.weights)
    autocast = device_support.set_precision(config.run.precision, _device(config))
    network.decoder.recompute = config.run.recompute
    objective = Objective(network, config.method, config.objective, autocast, config.run.compile)
    engine = DeepSpeedEngine(objective, config, distributed.world_size)
    ema = make_ema(network, config.optim.ema) if config.optim.ema and distributed.rank == 0 else None
    if state is None:
        return WorkerState(engine, ema, SpikeGuard(config.optim.max_spike), start=0, updates=0)
    step, updates, saved_by = (state.metadata[key] for key in ("step", "updates", "world_size"))
    engine.restore(state.moments, updates)
    if ema is not None:
        ema.load_state_dict(state.ema)  # type: ignore[arg-type]
    if distributed.rank == 0:
        workers = f", saved by {saved_by} workers, with {distributed.world_size} now"
        print(f"resuming from step {step}{workers if saved_by != distributed.world_size else ''}", flush=True)
    return WorkerState(engine, ema, SpikeGuard(config.optim.max_spike, **state.metadata["guard"]), step, updates)


class Worker:
    """One rank of a run, from its first step to its last."""

    def __init__(
        self, config: TrainConfig, output: str, table: TokenTable, state: WorkerState, distributed: DistributedContext
    ):
        self.config, self.output, self.table, self.distributed = config, output, table, distributed
        self.engine, self.ema, self.guard, self.start, self.updates = state
        self.checkpoints = Path(output) / "checkpoints"
        self.error: str | None = None
        self.preemption_checked_at = 0.0  # by rank 0's clock
        self.preempted_nodes: set[str] = set()  # a checkpoint has been saved for these
        self.recorder = None
        if distributed.rank == 0:
            to_save = self.engine.objective.network if self.ema is None else cast(Network, self.ema.module)
            settings = config.checkpoint_config(table.tokenizer.vocab_size, table.tokenizer.grid)
            self.recorder = TrainingRecorder(config, Path(output), self.engine, to_save, settings, self.start)

    def run(self) -> str | None:
        """Train to the end; on rank 0 save the checkpoint for use. Return what the user must fix, or None."""
        fit(
            self.engine,
            self.table,
            self.config,
            self.after_step,
            start=self.start,
            distributed=self.distributed,
            ema=self.ema,
            guard=self.guard,
        )
        if self.recorder is None:
            return self.error
        try:
            if self.error is None:
                self.recorder.finish(self.table)
        except OSError as error:
            self.error = f"{self.output}: {error.strerror or error}; make room there and run the same command again"
        self.recorder.close()
        return self.error

    def after_step(self, step: int, metrics: Metrics, batch: Batch) -> bool:
        """Record a step and save a checkpoint if one is due. Return True on all ranks if training must end here."""
        self.updates += not metrics["skipped"]
        if self.recorder:
            self.recorder(step, metrics, batch)
        if metrics["skipped"] and self._has_skipped_too_many(step, metrics):
            return True
        is_due = step % self.config.run.checkpoint_every == 0 or step == self.config.optim.steps
        if is_due or self._is_newly_preempted(metrics["time"]):
            self._save(step)
        return False

    def _has_skipped_too_many(self, step: int, metrics: Metrics) -> bool:
        """Record a skipped step. Return True, with `error` set, if there are more than `run.max_skipped`."""
        if self.recorder:
            rows = self.table.batch(step - 1, self.config.optim.batch_size).uid
            values = {"loss": metrics["loss"], "grad_norm": metrics["grad_norm"], "uid": rows}
            _log.warning("step %d is skipped: loss %s, gradient norm %s", step, values["loss"], values["grad_norm"])
            self.recorder.skipped.append(step, values)
        if self.guard.skipped <= self.config.run.max_skipped:
            return False
        self.error = (
            f"{self.guard.skipped} steps were skipped for a loss that is not finite or a spike (run.max_skipped="
            f"{self.config.run.max_skipped}); the rows are in {self.output}/skipped.jsonl: raise optim.max_spike "
            "or run.max_skipped, or train with a lower optim.lr in another run.output="
        )
        return True

    def _is_newly_preempted(self, now: float) -> bool:
        """Return True once per node that will be preempted soon. `now` is rank 0's clock, the same on all ranks."""
        if now - self.preemption_checked_at < PREEMPTION_CHECK_S:
            return False
        self.preemption_checked_at = now
        notice = ray.train.get_preemption_info()
        nodes = set(notice.preempted_node_ids) if notice else set()
        is_new, self.preempted_nodes = bool(nodes - self.preempted_nodes), nodes
        return is_new

    def _save(self, step: int) -> None:
        """Save a checkpoint for resuming. If the disk is full, record that and continue without it."""
        moments = self.engine.moments(keep=self.distributed.rank == 0)
        if self.distributed.rank:
            return
        metadata = {
            "step": step,
            "updates": self.updates,
            "guard": self.guard.state(),
            "world_size": self.distributed.world_size,
        }
        ema = None if self.ema is None else dict(self.ema.state_dict())
        assert self.recorder is not None
        self.recorder.log.sync()
        try:
            weights = self.engine.objective.network.state_dict()
            resume_state.save(self.checkpoints, ResumeState(metadata, weights, moments, ema))
            resume_state.prune(self.checkpoints, self.config.run.keep, self.config.run.keep_every)
        except OSError as error:
            reason = error.strerror or error
            _log.warning("no checkpoint at step %d: %s: %s; training continues", step, self.checkpoints, reason)
            self.recorder.count_lost_checkpoint(step)
