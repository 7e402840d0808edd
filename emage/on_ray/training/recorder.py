"""Rank 0's eyes: the record of steps, metrics for MLflow, sample sheets and strips, and the checkpoint at the end."""

import logging
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path

import torch

from emage import tokenizers
from emage.config import CheckpointConfig, TrainConfig
from emage.data import schema
from emage.data.token_table import Batch, TokenTable
from emage.inference.pipeline import Emage
from emage.methods import METHODS
from emage.model import device_support
from emage.model.transformer import Network
from emage.on_ray import tracking
from emage.training import step_log as steps
from emage.training.context_gain import context_gain
from emage.training.engine import Engine
from emage.training.estimate.parameters_and_flops import flops_per_sample
from emage.training.step_log import StepLog
from emage.training.step_metrics import Metrics
from emage.utils import image_grid, provenance

STRIPS = 2  # prompts that are shown forming
MAX_RESENT_STEPS = 1_000  # steps that were logged before a restart, offered to the store again

_log = logging.getLogger(__name__)


class TrainingRecorder:
    """`kept` are the weights that are drawn from and saved in the end: the network's own, or their average."""

    def __init__(
        self,
        config: TrainConfig,
        output: Path,
        engine: Engine,
        kept: Network,
        parts: CheckpointConfig,
        start: int,
    ):
        self.config, self.output, self.engine, self.start = config, output, engine, start
        self.log = StepLog(output / "steps.jsonl", start)
        self.skipped = StepLog(output / "skipped.jsonl", start)
        self.run = tracking.attach(config.mlflow, output / tracking.RUN_FILE)
        self.device = engine.device
        tokenizer = tokenizers.load(
            config.data.tokenizer, weights=config.data.tokenizer_weights, device=str(self.device)
        )
        self.pipe = Emage(kept, tokenizer, parts)
        self.pipe.drawing.records = False  # recordings would keep memory that training needs
        self.network = engine.objective.network.train()
        # What a GPU of this kind reaches in a product of large matrices; a step's share of it is its utilisation.
        self.peak = device_support.matmul_rate(self.device, config.run.precision) * config.run.num_workers
        self.began = self.since = time.monotonic()
        self.logged, self.waited, self.lost, self.has_warned = start, 0.0, 0, False
        self.metrics: Metrics = {}  # the last that were logged
        self._record_again()

    def __call__(self, step: int, metrics: Metrics, batch: Batch) -> None:
        run, is_last = self.config.run, step == self.config.optim.steps
        self.waited += metrics["data_wait_s"]
        if step % run.log_every == 0 or is_last:
            metrics = metrics | self._speed(step) | self._probe(batch) | self._memory()
            self.run.metrics(metrics, step=step)
            self.metrics = metrics
            self._warn_of_a_blind_network(step)
        self.log.append(step, metrics)
        if step % run.sample_every == 0 or is_last:
            self._draw(step)

    def count_lost_checkpoint(self, step: int) -> None:
        self.lost += 1
        self.run.metrics({"checkpoints_lost": self.lost}, step=step)

    def finish(self, table: TokenTable) -> None:
        """Writes the checkpoint for use. Raises OSError where there is no room for it."""
        config = self.config
        self.pipe.facts = {
            "step": config.optim.steps,
            "method": config.method,
            "data": {
                "path": config.data.path,
                "rows": table.num_rows,
                "fingerprint": schema.fingerprint(config.data.path),
            },
            "git": provenance.commit(),
            "mlflow_run": self.run.id,
            "metrics": self.metrics,
            "settings": {
                "objective": asdict(config.objective),
                "optim": asdict(config.optim),
                "init": config.init,
                "num_workers": config.run.num_workers,
                "precision": config.run.precision,
                "seed": config.run.seed,
            },
        }
        if not self.start:  # else most of the time was spent by a run that is gone
            self.pipe.facts["seconds"] = round(time.monotonic() - self.began)
        self.pipe.network.eval()
        self.pipe.save_pretrained(self.output / "model", prompts=config.run.prompts)

    def close(self) -> None:
        self.log.close()
        self.skipped.close()
        self.run.close()

    # --- Parts ---

    def _speed(self, step: int) -> Metrics:
        """Since the last time that something was logged: rates, the share of the peak, the share of time spent waiting
        for data."""
        now = time.monotonic()
        seconds, steps = now - self.since, step - self.logged
        rate = steps * self.config.optim.batch_size / seconds
        objective = self.engine.objective
        warm_steps = round(self.config.objective.warm_start * self.config.optim.steps)
        in_warm_start = METHODS[self.config.method].TWO_PASSES and step <= warm_steps
        flops = flops_per_sample(objective.network, self.config.method, in_warm_start=in_warm_start)
        values = {
            "samples_per_s": rate,
            "tokens_per_s": rate * self.pipe.config.grid[0] * self.pipe.config.grid[1],
            "mfu": rate * flops / self.peak,
            "data_wait": self.waited / seconds,
        }
        self.since, self.logged, self.waited = now, step, 0.0
        return values

    def _probe(self, batch: Batch) -> Metrics:
        if not METHODS[self.config.method].PARTIAL_CONTEXT:
            return {}
        return context_gain(self.network, batch, self.config.optim.micro_batch_size)

    def _memory(self) -> Metrics:
        if self.device.type != "cuda":
            return {}
        return {"gpu_memory_gib": torch.cuda.max_memory_allocated(self.device) / 2**30}

    def _record_again(self) -> None:
        """What a run that is gone logged last: its store may not have got it. What it did get is not written twice."""
        for values in deque(
            filter(lambda values: "mfu" in values, steps.read(self.output / "steps.jsonl")), MAX_RESENT_STEPS
        ):
            self.metrics = {name: value for name, value in values.items() if name != "step" and value is not None}
            self.run.metrics(self.metrics, step=values["step"])

    def _warn_of_a_blind_network(self, step: int) -> None:
        is_blind = abs(self.metrics.get("context_gain", 1.0)) < 0.005
        if is_blind and step > self.config.optim.steps // 2 and not self.has_warned:
            self.has_warned = True
            _log.warning(
                "the network ignores the image it is given (context gain near 0): objective.warm_start or "
                "objective.ground_truth_share cure it"
            )

    def _draw(self, step: int) -> None:
        """A sheet of the fixed prompts and, for methods that draw in passes, the first of them forming (Figure 5)."""
        prompts, seed = self.config.run.prompts, self.config.run.seed
        self.pipe.network.eval()
        images = {"samples": image_grid.sheet(self.pipe.generate(prompts, seed=seed), prompts)}
        if METHODS[self.config.method].PARTIAL_CONTEXT:
            frames = [list(self.pipe.stream(prompt, seed=seed)) for prompt in prompts[:STRIPS]]
            images["strips"] = image_grid.strips(frames, prompts[:STRIPS])
        self.network.train()
        for folder, image in images.items():
            path = self.output / folder / f"step_{step:06d}.png"
            self.run.image(f"{folder}/{path.name}", image)
            try:
                path.parent.mkdir(exist_ok=True)
                image.save(path)
            except OSError as error:  # a full disk: training goes on
                _log.warning("%s: %s", path, error.strerror)
