"""The recorder of rank 0: it writes step log, MLflow metrics, sample images and the checkpoint for use."""

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
from emage.training import step_log
from emage.training.context_gain import context_gain
from emage.training.engine import Engine
from emage.training.estimate.parameters_and_flops import flops_per_sample
from emage.training.step_log import StepLog
from emage.training.step_metrics import Metrics
from emage.utils import image_grid, provenance
from emage.utils.redact import redact_settings

NUM_FILMSTRIPS = 2  # prompts whose decoding steps are shown
MAX_RESENT_STEPS = 1_000  # steps that were logged before a restart and are sent to MLflow again

_log = logging.getLogger(__name__)


class TrainingRecorder:
    """Called by `worker.after_step`, the callback of `loop.fit`, after each step on rank 0.

    Args:
        config: The run's settings.
        output: The run's folder.
        engine: The engine that trains the network.
        network_to_save: The network that generates sample images and is saved at the end: the trained one, or the one
            with EMA weights.
        checkpoint_config: The config of the saved checkpoint.
        start: Steps done before.
    """

    def __init__(
        self,
        config: TrainConfig,
        output: Path,
        engine: Engine,
        network_to_save: Network,
        checkpoint_config: CheckpointConfig,
        start: int,
    ):
        self.config, self.output, self.engine, self.start = config, output, engine, start
        self.log = StepLog(output / "steps.jsonl", start)
        self.skipped = StepLog(output / "skipped.jsonl", start)  # worker.py writes its rows
        self.run = tracking.attach(config.mlflow, output / tracking.RUN_FILE)
        self.device = engine.device
        tokenizer = tokenizers.load(
            config.data.tokenizer, weights=config.data.tokenizer_weights, device=str(self.device)
        )
        self.pipe = Emage(network_to_save, tokenizer, checkpoint_config)
        self.pipe.runner.use_cuda_graphs = False  # CUDA graphs would keep memory that training needs
        self.network = engine.objective.network.train()
        # FLOP/s of a large matrix product on all workers' devices: the denominator of mfu (estimate/gpus.py).
        self.matmul_rate = device_support.matmul_rate(self.device, config.run.precision) * config.run.num_workers
        self.started_at = self.last_logged_at = time.monotonic()
        self.last_logged_step, self.waited_s, self.lost_checkpoints, self.has_warned = start, 0.0, 0, False
        self.metrics: Metrics = {}  # the last logged ones
        self._resend_metrics()

    def __call__(self, step: int, metrics: Metrics, batch: Batch) -> None:
        """Record a step. Every `run.log_every` steps measure speed and context gain, every `run.sample_every` generate.

        Args:
            step: Steps done, this one included.
            metrics: Of the step.
            batch: The rows of this rank.
        """
        run, is_last = self.config.run, step == self.config.optim.steps
        self.waited_s += metrics["data_wait_s"]
        if step % run.log_every == 0 or is_last:
            metrics = metrics | self._speed(step) | self._probe(batch) | self._memory()
            self.run.metrics(metrics, step=step)
            self.metrics = metrics
            self._warn_if_context_is_ignored(step)
        self.log.append(step, metrics)
        if step % run.sample_every == 0 or is_last:
            self._generate_samples(step)

    def count_lost_checkpoint(self, step: int) -> None:
        """Record that a checkpoint could not be saved."""
        self.lost_checkpoints += 1
        self.run.metrics({"checkpoints_lost": self.lost_checkpoints}, step=step)

    def finish(self, table: TokenTable) -> None:
        """Save the checkpoint for use.

        Raises:
            OSError: The disk is full, for example.
        """
        config = self.config
        self.pipe.metadata = {
            "step": config.optim.steps,
            "method": config.method,
            "data": {
                "path": redact_settings(config.data.path),
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
        if not self.start:  # the time of a resumed run is not known
            self.pipe.metadata["seconds"] = round(time.monotonic() - self.started_at)
        self.pipe.network.eval()
        self.pipe.save_pretrained(self.output / "model", prompts=config.run.prompts)

    def close(self) -> None:
        """Close the logs and the MLflow run."""
        self.log.close()
        self.skipped.close()
        self.run.close()

    def _speed(self, step: int) -> Metrics:
        """Return rates, mfu and the fraction of time spent waiting for data, since the last logged step."""
        now = time.monotonic()
        seconds, steps = now - self.last_logged_at, step - self.last_logged_step
        rate = steps * self.config.optim.batch_size / seconds
        objective = self.engine.objective
        warm_steps = round(self.config.objective.warm_start * self.config.optim.steps)
        in_warm_start = METHODS[self.config.method].TWO_PASSES and step <= warm_steps
        flops = flops_per_sample(objective.network, self.config.method, in_warm_start=in_warm_start)
        values = {
            "samples_per_s": rate,
            "tokens_per_s": rate * self.pipe.config.grid[0] * self.pipe.config.grid[1],
            "mfu": rate * flops / self.matmul_rate,
            "data_wait": self.waited_s / seconds,
        }
        self.last_logged_at, self.last_logged_step, self.waited_s = now, step, 0.0
        return values

    def _probe(self, batch: Batch) -> Metrics:
        if not METHODS[self.config.method].PARTIAL_CONTEXT:
            return {}
        return context_gain(self.network, batch, self.config.optim.micro_batch_size)

    def _memory(self) -> Metrics:
        if self.device.type != "cuda":
            return {}
        return {"gpu_memory_gib": torch.cuda.max_memory_allocated(self.device) / 2**30}

    def _resend_metrics(self) -> None:
        """Send the last metrics of a killed run again, in case MLflow has not received them. It stores none twice."""
        for values in deque(
            filter(lambda values: "mfu" in values, step_log.read(self.output / "steps.jsonl")), MAX_RESENT_STEPS
        ):
            self.metrics = {name: value for name, value in values.items() if name != "step" and value is not None}
            self.run.metrics(self.metrics, step=values["step"])

    def _warn_if_context_is_ignored(self, step: int) -> None:
        is_ignored = abs(self.metrics.get("context_gain", 1.0)) < 0.005
        if is_ignored and step > self.config.optim.steps // 2 and not self.has_warned:
            self.has_warned = True
            _log.warning(
                "the network ignores the image it is given (context gain near 0): objective.warm_start or "
                "objective.ground_truth_share fix it"
            )

    def _generate_samples(self, step: int) -> None:
        """Save images of the fixed prompts and, if the method decodes in steps, filmstrips (paper, Figure 5)."""
        prompts, seed = self.config.run.prompts, self.config.run.seed
        self.pipe.network.eval()
        images = {"samples": image_grid.make_grid(self.pipe.generate(prompts, seed=seed), prompts)}
        if METHODS[self.config.method].PARTIAL_CONTEXT:
            frames = [list(self.pipe.stream(prompt, seed=seed)) for prompt in prompts[:NUM_FILMSTRIPS]]
            images["strips"] = image_grid.make_filmstrips(frames, prompts[:NUM_FILMSTRIPS])
        self.network.train()
        for folder, image in images.items():
            path = self.output / folder / f"step_{step:06d}.png"
            self.run.image(f"{folder}/{path.name}", image)
            try:
                path.parent.mkdir(exist_ok=True)
                image.save(path)
            except OSError as error:  # a full disk: training continues
                _log.warning("%s: %s", path, error.strerror)
