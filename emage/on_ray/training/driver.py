"""Token table -> checkpoint, on Ray Train: the driver. What its workers do is in worker.py.

output/model/        the checkpoint for use
output/checkpoints/  those for resuming (emage.training.resume_state); the same command goes on from the last one
output/steps.jsonl   every step's figures (emage.training.step_log); `emage curves` draws them
output/skipped.jsonl steps that were not taken, with the ids of their rows
output/samples/      images drawn from fixed prompts on the way
output/ray/          Ray Train's own notes
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from emage import tokenizers
from emage.config import TrainConfig
from emage.data import schema
from emage.data.schema import TokenizerInfo
from emage.data.token_table import TokenTable
from emage.methods.sampling import check_sampling
from emage.model import checkpoint, finetune
from emage.model.device_support import check_device, check_precision
from emage.model.text import load_published
from emage.on_ray import launch, tasks, tracking
from emage.on_ray.training import job as train_job
from emage.on_ray.training import worker
from emage.training import plot_curves, step_log
from emage.training.estimate import estimate_report
from emage.training.loop import accumulation
from emage.utils import manifest, storage
from emage.utils.errors import InputError

CURVES = "curves.png"
RANGES = {
    "run.seed": (0, 2**63 - 1),
    "run.keep_every": (0, 1e12),
    "run.max_skipped": (0, 1e12),
    "run.max_failures": (0, 1e12),
    "optim.lr": (1e-30, 1e30),
    "optim.warmup": (0, 1),
    "optim.beta1": (0, 0.999999),
    "optim.beta2": (0, 0.999999),
    "optim.weight_decay": (0, 1e6),
    "optim.clip_norm": (1e-6, 1e30),
    "optim.max_spike": (1e-6, 1e30),
    "optim.ema": (0, 0.999999),
    "objective.warm_start": (0, 1),
    "objective.ground_truth_share": (0, 1),
    "objective.caption_dropout": (0, 1),
}

# --- Driver -----------------------------------------------------------------------------------------------------------


def train(config: TrainConfig) -> Path:
    """Trains to the end and returns the checkpoint folder. On finished output it returns at once."""
    if "://" in config.run.output:
        raise InputError(f"run.output={config.run.output}: an output is a folder that every node sees, not a URL")
    output = Path(config.run.output).absolute()
    model = output / "model"
    config = _with_full_paths(config)
    _check_numbers(config)
    _, tokenizer = schema.open_token_table(config.data.path)
    check_sampling(config.sampling, tokenizer.num_tokens)
    if config.dry_run:  # on any machine, without weights
        print(estimate_report.describe(config, tokenizer, TokenTable(config.data.path, config.run.seed).num_rows))
        return model
    _check_machine(config)
    _check_inputs(config, tokenizer, is_new=not any(output.glob("checkpoints/step_*")))
    identity = _identity(config)
    if (output / "run.json").exists():
        manifest.claim_output(output, "train", identity)
    if _is_trained(config, model) and (output / CURVES).exists():
        print(f"{model} is finished ({config.optim.steps} steps); nothing to do")
        return model
    manifest.claim_output(output, "train", identity)
    with launch.alone(output):
        launch.start_ray()
        with tracking.start(config.mlflow, stage="train", settings=config, run_file=output / tracking.RUN_FILE) as run:
            if not _is_trained(config, model):
                _train(replace(config, mlflow=run.config), output)
            plot_curves.plot([output], output / CURVES)
            run.file(output / CURVES)
            run.file(model / manifest.NAME)
    return model


def _is_trained(config: TrainConfig, model: Path) -> bool:
    done = manifest.read_json(model / manifest.NAME)
    return bool(done) and done["step"] == config.optim.steps


def _train(config: TrainConfig, output: Path) -> None:
    """Trains on Ray's workers. Raises InputError for what a person must mend before it can go on."""
    os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")  # it prints every line of a worker twice
    trainer = TorchTrainer(
        train_job.work,
        train_loop_config={"config": config, "output": str(output)},
        scaling_config=ScalingConfig(
            num_workers=config.run.num_workers,
            use_gpu=config.run.use_gpu,
            resources_per_worker={"CPU": config.run.cpus_per_worker, "GPU": int(config.run.use_gpu)},
        ),
        run_config=RunConfig(
            name="ray",
            storage_path=str(output),
            failure_config=FailureConfig(max_failures=config.run.max_failures),
        ),
    )
    with _progress(output / "steps.jsonl", config.optim.steps):
        problem = _fitted(trainer)
    if problem:
        raise InputError(problem)


def _fitted(trainer: TorchTrainer) -> str | None:
    """Runs it. Returns what a person must mend before training can go on, where there is such a thing."""
    try:
        return trainer.fit().return_value
    except WorkerGroupError as error:
        for cause in error.worker_failures.values():
            if isinstance(cause, InputError):
                raise cause from None
        raise


@contextmanager
def _progress(record: Path, total: int) -> Iterator[None]:
    """A bar with the newest step's figures, from the record that rank 0 writes, wherever it runs."""
    stop = Event()
    with tasks.bar("train", total, "steps", done=step_log.last_step(record)) as bar:
        thread = Thread(target=_follow, args=(record, stop, bar), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _follow(record: Path, stop: Event, bar: Any) -> None:
    for values in step_log.follow(record, stop):
        shown = {"loss": values.get("loss"), "accuracy": values.get("accuracy_masked")}
        bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items() if value is not None}, refresh=False)
        bar.update(values["step"] - bar.n)  # backwards where workers were lost and went on from a checkpoint


def _check_numbers(config: TrainConfig) -> None:
    """Raises InputError for settings that make no sense anywhere."""
    counts = {
        "optim": ("steps", "batch_size", "micro_batch_size"),
        "run": ("num_workers", "cpus_per_worker", "log_every", "sample_every", "checkpoint_every", "keep", "prompts"),
    }
    for group, names in counts.items():
        for name in names:
            value = getattr(getattr(config, group), name)
            if (value if isinstance(value, int) else len(value)) < 1:
                raise InputError(f"{group}.{name}={value}: there must be at least one")
    for name, (low, high) in RANGES.items():
        group, _, key = name.partition(".")
        value = getattr(getattr(config, group), key)
        if not low <= value <= high:  # nor is NaN
            raise InputError(f"{name}={value}: it must lie in {low:g}..{high:g}")
    if config.optim.batch_size // config.run.num_workers < accumulation(config.optim, config.run.num_workers):
        raise InputError(
            f"optim.batch_size={config.optim.batch_size} leaves some micro-batches of run.num_workers="
            f"{config.run.num_workers} without a row: use fewer workers, or a larger optim.micro_batch_size"
        )


def _check_machine(config: TrainConfig) -> None:
    """Raises InputError for what is known to fail before workers start; they look again, on their own machines."""
    launch.check_gpus(config.run.num_workers if config.run.use_gpu else 0, "run.use_gpu")
    if not config.run.use_gpu:
        check_precision(config.run.precision, "cpu")
    elif torch.cuda.is_available():  # a cluster's head may have none
        check_device("cuda")
        check_precision(config.run.precision, "cuda")


def _check_inputs(config: TrainConfig, made_by: TokenizerInfo, is_new: bool) -> None:
    """Raises InputError where tokens, tokenizer and settings, and the weights that a new run starts from, don't fit."""
    try:
        mine = tokenizers.load(config.data.tokenizer, weights=config.data.tokenizer_weights)
        with torch.device("meta"):
            network = checkpoint.build(worker.checkpoint_config(config, made_by))
    except (ValueError, OSError) as error:
        raise InputError(str(error)) from None
    if made_by.sha256 != mine.sha256:
        raise InputError(
            f"{config.data.path} was made with tokenizer {made_by.name} ({made_by.sha256[:12]}), not with "
            f"{config.data.tokenizer} ({mine.sha256[:12]}): set data.tokenizer (and data.tokenizer_weights) to that one"
        )
    if config.init and is_new:
        finetune.starting_point(config.init, worker.checkpoint_config(config, made_by), made_by)
    elif is_new:
        load_published(network.text.to_empty(device="cpu"), config.model)  # fetches them here, once, or says what to do


def _with_full_paths(config: TrainConfig) -> TrainConfig:
    """Workers run in a folder of Ray's: what is relative to this one must not be."""

    def full(path: str | None) -> str | None:
        return path and os.path.abspath(path)

    data = replace(
        config.data,
        path=storage.absolute(config.data.path),
        tokenizer_weights=full(config.data.tokenizer_weights),
    )
    init = full(config.init) if config.init and Path(config.init).exists() else config.init  # else a hub's id
    model = replace(config.model, text_weights=full(config.model.text_weights))
    return replace(config, init=init, data=data, model=model)


def _identity(config: TrainConfig) -> dict[str, Any]:
    """The settings that the weights depend on; logging, retries and places don't count.

    Nor do the number of workers, the micro-batch and ZeRO's stage: they change how a step is shared out, and the
    weights by rounding alone.
    """
    settings = asdict(config)
    for name in ("mlflow", "sampling", "dry_run"):
        del settings[name]
    for name in ("micro_batch_size", "max_spike"):
        del settings["optim"][name]
    settings["data"] = {"tokenizer": config.data.tokenizer, "table": schema.fingerprint(config.data.path)}
    settings["run"] = {key: settings["run"][key] for key in ("seed", "precision")}
    return settings
