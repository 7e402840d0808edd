"""What every worker of a training run does: builds, goes on from the last checkpoint, trains, saves.

The step itself is emage.training.loop's; nothing here knows what a token means. Rank 0 also keeps the run's record: the
files under output/, the metrics, the images (recorder.py).
"""

import logging
from pathlib import Path
from typing import NamedTuple, cast

import ray.train
import torch
import torch.distributed as dist
from ray.train import collective
from torch.optim.swa_utils import AveragedModel

from emage.config import CheckpointConfig, TrainConfig
from emage.data.schema import TokenizerInfo
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

PREEMPTION_S = 2.0  # between two questions whether a node is about to be taken away: they cost a barrier

_log = logging.getLogger(__name__)


class WorkerState(NamedTuple):
    """What a worker trains, and where it goes on."""

    engine: DeepSpeedEngine
    average: AveragedModel | None  # rank 0's, with optim.ema
    guard: SpikeGuard
    start: int  # steps done
    updates: int  # those of them that were taken


def work(config: TrainConfig, output: str) -> str | None:
    """One Ray Train worker. Returns what a person must mend before training can go on, None at its end.

    `output`: the run's folder, which all nodes share.
    """
    context = ray.train.get_context()
    ranks = DistributedContext(context.get_world_rank(), context.get_world_size())
    prepared, problem = _prepared(config, output)
    last, broken = _last_checkpoint(output) if ranks.rank == 0 else (None, None)
    if problem := _first(problem or broken):
        return problem
    assert prepared is not None
    table, network = prepared
    last = collective.broadcast_from_rank_zero(last)
    return Worker(config, output, table, _build(config, network, last, ranks), ranks).run()


def checkpoint_config(config: TrainConfig, tokenizer: TokenizerInfo) -> CheckpointConfig:
    return CheckpointConfig(config.method, tokenizer.vocab_size, tokenizer.grid, config.model, config.sampling)


def _device(config: TrainConfig) -> str:
    return "cuda" if config.run.use_gpu else "cpu"


def _prepared(config: TrainConfig, output: str) -> tuple[tuple[TokenTable, Network] | None, str | None]:
    """The table and a fresh network on this rank's machine, or what is wrong there."""
    try:
        device_support.check_device(_device(config))
        device_support.check_precision(config.run.precision, _device(config))
        if not (Path(output) / "run.json").exists():
            raise InputError(f"run.output={output}: another folder on this node; use one that all nodes share")
        torch.manual_seed(config.run.seed)
        table = TokenTable(config.data.path, config.run.seed)
        network = checkpoint.build(checkpoint_config(config, table.tokenizer))
        if not any((Path(output) / "checkpoints").glob("step_*")):
            if config.init:
                finetune.start_from(network, config.init, checkpoint_config(config, table.tokenizer), table.tokenizer)
            else:
                load_published(network.text, config.model)
        return (table, network), None
    except (InputError, ValueError) as error:
        return None, str(error)


def _last_checkpoint(output: str) -> tuple[str | None, str | None]:
    """The one to go on from, or what keeps training from that."""
    folder = Path(output) / "checkpoints"
    if folder.exists():
        manifest.remove_leftovers(folder)
    try:
        found = resume_state.newest(folder)
    except InputError as error:
        return None, str(error)
    return str(found) if found else None, None


def _first(problem: str | None) -> str | None:
    """The first rank's that has one. All ranks learn it, so that all end."""
    group = dist.new_group(backend="gloo")  # on CPUs: a GPU without kernels is one of the problems
    problems: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(problems, problem, group=group)
    return next(filter(None, problems), None)


def _build(config: TrainConfig, network: Network, last: str | None, ranks: DistributedContext) -> WorkerState:
    state = resume_state.load(Path(last)) if last else None
    if state:
        network.load_state_dict(state.weights)
    autocast = device_support.set_precision(config.run.precision, _device(config))
    network.decoder.recompute = config.run.recompute
    objective = Objective(network, config.method, config.objective, autocast, config.run.compile)
    engine = DeepSpeedEngine(objective, config, ranks.world_size)
    average = make_ema(network, config.optim.ema) if config.optim.ema and ranks.rank == 0 else None
    if state is None:
        return WorkerState(engine, average, SpikeGuard(config.optim.max_spike), start=0, updates=0)
    facts = state.metadata
    engine.restore(state.moments, facts["updates"])
    if average is not None:
        average.load_state_dict(state.ema)  # type: ignore[arg-type]
    if ranks.rank == 0:
        before = facts["world_size"]
        shared = f", saved by {before} workers, with {ranks.world_size} now" if before != ranks.world_size else ""
        print(f"going on from step {facts['step']}{shared}", flush=True)
    return WorkerState(
        engine, average, SpikeGuard(config.optim.max_spike, **facts["guard"]), facts["step"], facts["updates"]
    )


class Worker:
    """One rank on its way from the first step to the last."""

    def __init__(
        self, config: TrainConfig, output: str, table: TokenTable, built: WorkerState, ranks: DistributedContext
    ):
        self.config, self.output, self.table, self.ranks = config, output, table, ranks
        self.engine, self.average, self.guard, self.start, self.updates = built
        self.checkpoints = Path(output) / "checkpoints"
        self.problem: str | None = None
        self.asked = 0.0  # when the last question for a preemption was put
        self.leaving: set[str] = set()  # nodes about to go, for which a checkpoint has been saved
        kept = self.engine.objective.network if self.average is None else cast(Network, self.average.module)
        self.recorder = None
        if ranks.rank == 0:
            settings = checkpoint_config(self.config, table.tokenizer)
            self.recorder = TrainingRecorder(config, Path(output), self.engine, kept, settings, self.start)

    def run(self) -> str | None:
        fit(
            self.engine,
            self.table,
            self.config,
            self.after,
            start=self.start,
            distributed=self.ranks,
            ema=self.average,
            guard=self.guard,
        )
        if self.recorder is None:
            return self.problem
        try:
            if self.problem is None:
                self.recorder.finish(self.table)
        except OSError as error:
            self.problem = f"{self.output}: {error.strerror or error}; make room there and give the same command again"
        self.recorder.close()
        return self.problem

    def after(self, step: int, metrics: Metrics, batch: Batch) -> bool:
        """After a step. Whether training ends here; all ranks say the same."""
        self.updates += not metrics["skipped"]
        if self.recorder:
            self.recorder(step, metrics, batch)
        if metrics["skipped"] and self._is_too_much(step, metrics):
            return True
        is_due = step % self.config.run.checkpoint_every == 0 or step == self.config.optim.steps
        if is_due or self._is_taken_away(metrics["time"]):
            self._save(step)
        return False

    def _is_too_much(self, step: int, metrics: Metrics) -> bool:
        """Counts and records a skipped step; `problem` says so where it was one too many."""
        if self.recorder:
            rows = self.table.batch(step - 1, self.config.optim.batch_size).uid
            values = {"loss": metrics["loss"], "grad_norm": metrics["grad_norm"], "uid": rows}
            _log.warning("step %d is skipped: loss %s, gradient norm %s", step, values["loss"], values["grad_norm"])
            self.recorder.skipped.append(step, values)
        if self.guard.skipped <= self.config.run.max_skipped:
            return False
        self.problem = (
            f"{self.guard.skipped} steps were skipped for a loss that is no number or a spike (run.max_skipped="
            f"{self.config.run.max_skipped}); the rows are in {self.output}/skipped.jsonl: raise optim.max_spike "
            "or run.max_skipped, or train with a lower optim.lr in another run.output="
        )
        return True

    def _is_taken_away(self, now: float) -> bool:
        """Whether a node is about to go, said once of each. `now` is rank 0's clock: all ranks ask at the same step."""
        if now - self.asked < PREEMPTION_S:
            return False
        self.asked = now
        notice = ray.train.get_preemption_info()
        nodes = set(notice.preempted_node_ids) if notice else set()
        is_news, self.leaving = bool(nodes - self.leaving), nodes
        return is_news

    def _save(self, step: int) -> None:
        """A checkpoint for resuming. A disk that is full costs this one; training goes on and tries the next."""
        moments = self.engine.moments(keep=self.ranks.rank == 0)
        if self.ranks.rank:
            return
        facts = {
            "step": step,
            "updates": self.updates,
            "guard": self.guard.state(),
            "world_size": self.ranks.world_size,
        }
        average = None if self.average is None else dict(self.average.state_dict())
        assert self.recorder is not None
        self.recorder.log.sync()
        try:
            weights = self.engine.objective.network.state_dict()
            resume_state.save(self.checkpoints, ResumeState(facts, weights, moments, average))
            resume_state.prune(self.checkpoints, self.config.run.keep, self.config.run.keep_every)
        except OSError as error:
            reason = error.strerror or error
            _log.warning("no checkpoint at step %d: %s: %s; training goes on", step, self.checkpoints, reason)
            self.recorder.count_lost_checkpoint(step)
