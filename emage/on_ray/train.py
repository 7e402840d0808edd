"""Token table -> checkpoint, on Ray Train and DeepSpeed. The step itself is emage.training's; nothing here knows what
a token means.

output/model/    the checkpoint for use
output/ray/      Ray Train's storage: DeepSpeed's checkpoints for resuming; the same command goes on from the last one
output/samples/  pictures drawn from fixed prompts on the way
"""

import os
import subprocess
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import ray.train
import torch
from ray.train import CheckpointConfig as RayCheckpointConfig
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer
from safetensors.torch import load_file
from torch.optim.swa_utils import AveragedModel

from emage import checkpoint, manifest, sheets, tokenizers
from emage.config import CheckpointConfig, TrainConfig
from emage.devices import check_device
from emage.errors import InputError
from emage.methods import METHODS
from emage.methods.terms import Loss
from emage.model import Network
from emage.on_ray import launch, tracking
from emage.optim import adamw, averaged
from emage.pipeline import Emage, check_sampling
from emage.schema import TokenizerInfo, open_token_table
from emage.text import load_published
from emage.token_table import Batch, TokenTable
from emage.tokenizers import weights
from emage.training import Metrics, Objective, context_gain, fit

TAG = "state"  # DeepSpeed's name for the one checkpoint in a folder; never its "latest" file
AVERAGE = "average.safetensors"  # beside it, with optim.ema


# --- Driver -----------------------------------------------------------------------------------------------------------


def train(config: TrainConfig) -> Path:
    """Trains to the end and returns the checkpoint folder. On finished output it returns at once."""
    output = Path(config.run.output).absolute()
    model = output / "model"
    config = _with_full_paths(config)
    _check(config)
    identity = _identity(config)
    if (output / "run.json").exists():
        manifest.claim(output, "train", identity)
    done = manifest.read_json(model / manifest.NAME)
    if done and done["step"] == config.optim.steps:
        print(f"{model} is finished ({done['step']} steps); nothing to do")
        return model
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it prints every line of a worker twice
    manifest.claim(output, "train", identity)
    launch.start_ray()
    with tracking.start(config.mlflow, stage="train", settings=config) as run:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": replace(config, mlflow=run.config), "run": run.id, "output": str(output)},
            scaling_config=ScalingConfig(
                num_workers=config.run.num_workers,
                use_gpu=config.run.use_gpu,
                resources_per_worker={"CPU": config.run.cpus_per_worker, "GPU": int(config.run.use_gpu)},
            ),
            run_config=RunConfig(
                name="ray",
                storage_path=str(output),
                failure_config=FailureConfig(max_failures=config.run.max_failures),
                checkpoint_config=RayCheckpointConfig(num_to_keep=config.run.keep),
            ),
        )
        try:
            trainer.fit()
        except WorkerGroupError as error:
            for cause in error.worker_failures.values():
                if isinstance(cause, InputError):
                    raise cause from None
            raise
        run.file(model / manifest.NAME)
    return model


def _check(config: TrainConfig) -> None:
    """Everything that can be known to be wrong before workers start. Raises InputError."""
    launch.check_gpus(config.run.num_workers if config.run.use_gpu else 0, "run.use_gpu")
    counts = {
        "optim": ("steps", "batch_size", "micro_batch_size"),
        "run": ("num_workers", "cpus_per_worker", "log_every", "sample_every", "checkpoint_every", "keep", "prompts"),
    }
    for group, names in counts.items():
        for name in names:
            value = getattr(getattr(config, group), name)
            if (value if isinstance(value, int) else len(value)) < 1:
                raise InputError(f"{group}.{name}={value}: there must be at least one")
    if not 0 <= config.optim.ema < 1:
        raise InputError(f"optim.ema={config.optim.ema}: a decay lies in [0, 1); 0.9999 is usual, 0 turns it off")
    share = config.optim.batch_size / config.run.num_workers / config.optim.micro_batch_size
    if share < 1 or share != int(share):
        raise InputError(
            f"optim.batch_size={config.optim.batch_size} is not run.num_workers={config.run.num_workers} x "
            f"optim.micro_batch_size={config.optim.micro_batch_size} x a whole number"
        )
    _, made_by = open_token_table(config.data.path)
    try:
        mine = tokenizers.load(config.data.tokenizer, weights=config.data.tokenizer_weights)
        with torch.device("meta"):
            network = checkpoint.build(_parts(config, made_by))
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None
    if made_by.sha256 != mine.sha256:
        raise InputError(
            f"{config.data.path} was made with tokenizer {made_by.name} ({made_by.sha256[:12]}), not with "
            f"{config.data.tokenizer} ({mine.sha256[:12]}): set data.tokenizer (and data.tokenizer_weights) to that one"
        )
    check_sampling(config.sampling, made_by.num_tokens)
    load_published(network.text.to_empty(device="cpu"), config.model)  # fetches them here, once, or says what to do


def _with_full_paths(config: TrainConfig) -> TrainConfig:
    """Workers run in a folder of Ray's: what is relative to this one must not be."""

    def full(path: str | None) -> str | None:
        return path and os.path.abspath(path)

    data = replace(
        config.data, path=os.path.abspath(config.data.path), tokenizer_weights=full(config.data.tokenizer_weights)
    )
    return replace(config, data=data, model=replace(config.model, text_weights=full(config.model.text_weights)))


def _identity(config: TrainConfig) -> dict[str, Any]:
    """The settings that the weights depend on; logging, retries and places don't count."""
    settings = asdict(config)
    del settings["mlflow"], settings["sampling"]
    settings["data"] = {"tokenizer": config.data.tokenizer, "table": _fingerprint(config.data.path)}
    settings["run"] = {key: settings["run"][key] for key in ("seed", "num_workers", "zero_stage")}
    return settings


def _fingerprint(table: str) -> str:
    """What tells one token table from another: ingest's own manifest, or the files' names and sizes."""
    made = Path(table) / "_manifest.json"
    if made.exists():
        return manifest.sha256(made)
    return manifest.fingerprint([(Path(file).name, Path(file).stat().st_size) for file in open_token_table(table)[0]])


def _parts(config: TrainConfig, tokenizer: TokenizerInfo) -> CheckpointConfig:
    return CheckpointConfig(config.method, tokenizer.vocab_size, tokenizer.grid, config.model, config.sampling)


# --- Worker -----------------------------------------------------------------------------------------------------------


class DeepSpeedEngine:
    """DeepSpeed behind emage.training's Engine: FP32, AdamW, clipping, the ZeRO stage of the config."""

    def __init__(self, objective: Objective, config: TrainConfig, world_size: int):
        # On a CPU the accelerator must be named before the import; the guess fails where CUDA libraries lie unused.
        os.environ.setdefault("DS_ACCELERATOR", "cuda" if config.run.use_gpu else "cpu")
        import deepspeed

        # A compiled collective for inference alone; building it takes a minute and a compiler.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        optim = config.optim
        # PyTorch's AdamW, as in training.BareEngine: DeepSpeed's own would have to be compiled first.
        self.optimizer = adamw(objective, optim)
        engine, _, _, _ = deepspeed.initialize(
            model=objective,
            optimizer=self.optimizer,
            config={
                "train_batch_size": optim.batch_size,
                "train_micro_batch_size_per_gpu": optim.micro_batch_size,
                "gradient_accumulation_steps": optim.batch_size // world_size // optim.micro_batch_size,
                "gradient_clipping": optim.clip_norm,
                "zero_optimization": {"stage": config.run.zero_stage},
                "steps_per_print": 1 << 30,
                "wall_clock_breakdown": False,
            },
        )
        self.engine, self.objective = engine, objective
        self.device = torch.device(engine.device)  # type: ignore[arg-type]

    def forward(self, *args) -> Loss:
        return self.engine(*args)

    def backward(self, loss: torch.Tensor) -> None:
        self.engine.backward(loss)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()  # DeepSpeed counts micro-batches by it

    def step(self, lr: float) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        norm = torch.nn.utils.get_total_norm([p.grad for p in self.objective.parameters() if p.grad is not None])
        self.engine.step()
        known = self.engine.get_global_grad_norm()  # with ZeRO, whose ranks hold parts of the gradient each
        return float(norm if known is None else known)

    def save(self, folder: str, step: int, rank: int, average: AveragedModel | None) -> None:
        """Writes this rank's files and, last, a manifest of them."""
        self.engine.save_checkpoint(folder, tag=TAG, client_state={"step": step}, save_latest=False)
        if average is not None:
            weights.write(average.state_dict(), f"{folder}/{TAG}/{AVERAGE}")
        files = sorted((Path(folder) / TAG).iterdir())
        manifest.write_json(f"{folder}/rank_{rank}.json", {file.name: manifest.sha256(file) for file in files})

    def load(self, folder: str) -> int:
        """Restores weights and optimizer; returns the steps done. Raises RuntimeError where a file is damaged."""
        for listed in Path(folder).glob("rank_*.json"):
            for name, digest in manifest.read_json(listed).items():
                if manifest.sha256(Path(folder) / TAG / name) != digest:
                    raise RuntimeError(
                        f"{folder}/{TAG}/{name} is damaged: delete this checkpoint to use the one before"
                    )
        _, state = self.engine.load_checkpoint(folder, tag=TAG)
        assert state is not None, f"{folder} holds no DeepSpeed checkpoint"
        return state["step"]


def _worker(settings: dict[str, Any]) -> None:
    """One Ray Train worker: builds, resumes, trains; rank 0 also logs, draws samples and saves."""
    config: TrainConfig = settings["config"]
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    check_device("cuda" if config.run.use_gpu else "cpu")
    torch.manual_seed(config.run.seed)
    table = TokenTable(config.data.path, config.run.seed)
    parts = _parts(config, table.tokenizer)
    network = checkpoint.build(parts)
    resumed = ray.train.get_checkpoint()
    if resumed is None:
        load_published(network.text, config.model)
    engine = DeepSpeedEngine(Objective(network, config.method, config.objective), config, world_size)
    average = averaged(network, config.optim.ema) if config.optim.ema and rank == 0 else None
    start = 0
    if resumed is not None:
        with resumed.as_directory() as folder:
            start = engine.load(folder)
            if average is not None:
                average.load_state_dict(load_file(f"{folder}/{TAG}/{AVERAGE}"))
        print(f"going on from step {start}", flush=True)
    kept = network if average is None else cast(Network, average.module)
    watcher = Watcher(config, settings, engine, kept, parts, start) if rank == 0 else None

    def on_step(step: int, metrics: Metrics, batch: Batch) -> None:
        if watcher:
            watcher(step, metrics, batch)
        if step % config.run.checkpoint_every == 0 or step == config.optim.steps:
            with tempfile.TemporaryDirectory() as folder:
                engine.save(folder, step, rank, average)
                ray.train.report({"step": step, **metrics}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    fit(engine, table, config, on_step, start=start, rank=rank, world_size=world_size, average=average)
    if watcher:
        watcher.finish(table)


class Watcher:
    """Rank 0's eyes: lines with rate and ETA, metrics, sample grids, and the checkpoint for use at the end."""

    def __init__(
        self,
        config: TrainConfig,
        settings: dict[str, Any],
        engine: DeepSpeedEngine,
        kept: Network,
        parts: CheckpointConfig,
        start: int,
    ):
        self.config, self.engine, self.start = config, engine, start
        self.output = Path(settings["output"])
        self.run = tracking.attach(config.mlflow, settings["run"])
        tokenizer = tokenizers.load(
            config.data.tokenizer, weights=config.data.tokenizer_weights, device=str(engine.device)
        )
        self.pipe = Emage(kept, tokenizer, parts)
        self.network = engine.objective.network.train()
        self.began = time.monotonic()
        self.metrics: Metrics = {}  # the last that were logged

    def __call__(self, step: int, metrics: Metrics, batch: Batch) -> None:
        run = self.config.run
        if step % run.log_every == 0 or step == self.config.optim.steps:
            if METHODS[self.config.method].PARTIAL_CONTEXT:
                metrics = metrics | context_gain(self.network, batch, self.config.optim.micro_batch_size)
            rate = (step - self.start) / (time.monotonic() - self.began)
            metrics["samples_per_s"] = rate * self.config.optim.batch_size
            self.run.metrics(metrics, step=step)
            self.metrics = metrics
            self._say(step, metrics, rate)
        if step % run.sample_every == 0 or step == self.config.optim.steps:
            self._draw(step)

    def finish(self, table: TokenTable) -> None:
        config = self.config
        self.pipe.facts = {
            "step": config.optim.steps,
            "method": config.method,
            "data": {
                "path": config.data.path,
                "rows": table.num_rows,
                "fingerprint": _fingerprint(config.data.path),
            },
            "git": _commit(),
            "metrics": self.metrics,
            "settings": {
                "objective": asdict(config.objective),
                "optim": asdict(config.optim),
                "num_workers": config.run.num_workers,
                "seed": config.run.seed,
            },
        }
        if not self.start:  # else most of the time was spent by a run that is gone
            self.pipe.facts["seconds"] = round(time.monotonic() - self.began)
        self.pipe.network.eval()
        self.pipe.save_pretrained(self.output / "model", prompts=config.run.prompts)
        self.run.close()

    def _say(self, step: int, metrics: Metrics, rate: float) -> None:
        steps = self.config.optim.steps
        left = round((steps - step) / rate)
        gain = f"context gain {metrics['context_gain']:+.3f}  " if "context_gain" in metrics else ""
        print(
            f"step {step}/{steps}  loss {metrics['loss']:.3f}  accuracy {metrics['accuracy_masked']:.3f}  "
            f"{gain}lr {metrics['lr']:.1e}  "
            f"{metrics['samples_per_s']:.0f} samples/s  ETA {left // 60}:{left % 60:02d}",
            flush=True,
        )
        if step > steps // 2 and abs(metrics.get("context_gain", 1.0)) < 0.005:
            print(
                "warning: the network ignores the picture it is given (context gain near 0): objective.warm_start or "
                "objective.ground_truth_share cure it",
                flush=True,
            )

    def _draw(self, step: int) -> None:
        prompts = self.config.run.prompts
        self.pipe.network.eval()
        sheet = sheets.sheet(self.pipe.generate(prompts, seed=self.config.run.seed), prompts)
        self.network.train()
        path = self.output / "samples" / f"step_{step:06d}.png"
        path.parent.mkdir(exist_ok=True)
        sheet.save(path)
        self.run.picture(f"samples/{path.name}", sheet)


def _commit() -> str:
    """The git commit of the code that runs, or "unknown" outside a checkout."""
    here = Path(__file__).parent
    try:
        found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True)
    except OSError:  # no git on this machine
        return "unknown"
    return found.stdout.strip() if found.returncode == 0 else "unknown"
