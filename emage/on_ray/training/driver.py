"""The training driver: from a token table to a checkpoint, on Ray Train. Its workers are in worker.py.

output/model/        the checkpoint for use
output/checkpoints/  checkpoints for resuming (emage.training.resume_state); the same command resumes from the last one
output/steps.jsonl   the metrics of every step (emage.training.step_log); `emage curves` plots them
output/skipped.jsonl steps that were skipped, with the ids of their rows
output/samples/      images of fixed prompts, generated during training
output/strips/       the same as filmstrips: one row per prompt, one image per decoding step
output/curves.png    learning curves
output/run.json      the settings that the weights depend on
output/mlflow.json   the id of the run in MLflow, if tracking is on
output/ray/          Ray Train's own files
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchTrainer

from emage.config import TrainConfig, check
from emage.data import schema, table_check
from emage.data.token_table import TokenTable
from emage.model.device_support import check_device, check_precision
from emage.on_ray import launch, tasks, tracking
from emage.on_ray.training import input_checks
from emage.on_ray.training import job as train_job
from emage.training import plot_curves, step_log
from emage.training.estimate import estimate_report
from emage.utils import manifest
from emage.utils.errors import InputError

CURVES = "curves.png"
NUM_PROMPTS = 8  # captions of the table that are prompts if none are set


@dataclass(frozen=True)
class Inputs:
    """The checked inputs of a training run; nothing has been written yet."""

    config: TrainConfig  # with absolute paths: workers run in a folder of Ray's
    output: Path  # absolute
    identity: dict[str, Any]
    is_trained: bool  # by an earlier run of the same command
    is_finished: bool  # trained, and its learning curves are plotted

    @property
    def model(self) -> Path:
        return self.output / "model"


def train(config: TrainConfig) -> dict[str, Any]:
    """Train to the end; if the output is finished, do nothing. With `config.dry_run`, only print what a run would need.

    Args:
        config: The run's settings.

    Returns:
        The report, which is printed as well: `model`, the checkpoint folder, and the `steps` it was trained for; for a
        dry run `plan`, a text.

    Raises:
        InputError: Settings, token table, tokenizer, starting weights, machine or output are not usable, or training
            cannot continue before something is fixed.
    """
    validate(config)
    if config.dry_run:
        report = {"plan": _plan(config)}
    else:
        inputs = resolve(config)
        if not inputs.is_finished:
            with launch.output_run(inputs, "train", run_file=inputs.output / tracking.RUN_FILE) as tracked:
                run(inputs, tracked)
        report = {"model": str(inputs.model), "steps": config.optim.steps}
    print_report(report)
    return report


def validate(config: TrainConfig) -> None:
    """Raise InputError for settings that are not allowed on any machine."""
    check(config)


def resolve(config: TrainConfig) -> Inputs:
    """Check the machine, the token table and the weights to start from; find out whether the run is finished.

    Raises:
        InputError: Something would fail in the workers. They check their own machines again.
    """
    config, _ = input_checks.with_checked_inputs(config, fetch=True)
    _check_machine(config)
    output, identity = Path(config.run.output).absolute(), _identity(config)
    launch.check_output(output, "train", identity)
    done = manifest.read_json(output / "model" / manifest.NAME)
    is_trained = bool(done) and done["step"] == config.optim.steps
    is_finished = is_trained and (output / CURVES).exists()
    if not is_trained:
        table_check.check_table(config.data.path)
        config = _with_prompts(config)
    return Inputs(config, output, identity, is_trained, is_finished)


def run(inputs: Inputs, tracked: tracking.TrackedRun) -> None:
    """Train, unless an earlier run did, and plot the learning curves."""
    if not inputs.is_trained:
        _train(replace(inputs.config, mlflow=tracked.config), inputs.output)
    if inputs.config.mlflow.log_model:
        tracked.model(inputs.model, inputs.config.mlflow.register_as)
    plot_curves.plot([inputs.output], inputs.output / CURVES)
    tracked.file(inputs.output / CURVES)
    tracked.file(inputs.model / manifest.NAME)


def print_report(report: dict[str, Any]) -> None:
    """Print a dry run's plan, or the folder of the model."""
    print(report["plan"] if "plan" in report else f"model: {report['model']} ({report['steps']} steps)", flush=True)


# --- Inputs -----------------------------------------------------------------------------------------------------------


def _plan(config: TrainConfig) -> str:
    """Return the text of a dry run. It needs no GPUs, and downloads nothing; with `data.rows` it needs no table."""
    config, tokenizer = input_checks.with_checked_inputs(config, fetch=False)
    num_rows = config.data.rows
    if num_rows is None:
        launch.check_output(Path(config.run.output).absolute(), "train", _identity(config))
        num_rows = TokenTable(config.data.path, config.run.seed).num_rows
    return estimate_report.describe(config, tokenizer, num_rows)


def _with_prompts(config: TrainConfig) -> TrainConfig:
    """Return the settings with prompts: if none are set, different captions among the table's first rows.

    Raises:
        InputError: A footer of the table is damaged, on which the workers would fail later.
    """
    table = TokenTable(config.data.path, config.run.seed, groups_in_memory=1)  # nothing is read ahead
    prompts = config.run.prompts
    if not prompts:
        captions = table.batch(0, min(table.num_rows, 10 * NUM_PROMPTS)).captions
        prompts = tuple(dict.fromkeys(captions))[:NUM_PROMPTS]
    table.close()
    return replace(config, run=replace(config.run, prompts=prompts))


def _check_machine(config: TrainConfig) -> None:
    """Raise InputError if the GPUs or the precision are not available here."""
    launch.check_gpus(config.run.num_workers if config.run.use_gpu else 0, "run.use_gpu")
    if not config.run.use_gpu:
        check_precision(config.run.precision, "cpu")
    elif torch.cuda.is_available():  # a cluster's head may have none
        check_device("cuda")
        check_precision(config.run.precision, "cuda")


def _identity(config: TrainConfig) -> dict[str, Any]:
    """Return the settings that the weights depend on; logging, retries and paths don't count.

    Nor do the number of workers, the micro-batch and ZeRO's stage: they change how a step is divided, and the weights
    by rounding alone.
    """
    settings = asdict(config)
    for name in ("mlflow", "sampling", "dry_run"):
        del settings[name]
    for name in ("micro_batch_size", "max_spike"):  # max_spike: may be changed to let a stopped run continue
        del settings["optim"][name]
    settings["data"] = {"tokenizer": config.data.tokenizer, "table": schema.fingerprint(config.data.path)}
    settings["run"] = {key: settings["run"][key] for key in ("seed", "precision")}
    return settings


# --- Ray Train --------------------------------------------------------------------------------------------------------


def _train(config: TrainConfig, output: Path) -> None:
    """Train on Ray's workers. Raise InputError if something must be fixed before training can continue."""
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
    with _progress_bar(output / "steps.jsonl", config.optim.steps):
        problem = _fit(trainer)
    if problem:
        raise InputError(problem)


def _fit(trainer: TorchTrainer) -> str | None:
    """Run the trainer. Return what must be fixed before training can continue, None at its end."""
    try:
        return trainer.fit().return_value
    except WorkerGroupError as error:
        for cause in error.worker_failures.values():
            if isinstance(cause, InputError):
                raise cause from None
        raise
    except SystemExit:  # Ray's way to end a program that was interrupted
        raise KeyboardInterrupt from None


@contextmanager
def _progress_bar(steps: Path, total: int) -> Iterator[None]:
    """Show a bar with the newest step's metrics, from the file that rank 0 writes, wherever it runs."""
    stop = Event()
    with tasks.progress_bar("train", total, "steps", done=step_log.last_step(steps)) as bar:
        thread = Thread(target=_follow, args=(steps, stop, bar), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


def _follow(steps: Path, stop: Event, bar: Any) -> None:
    """Update the bar from the step log until `stop` is set."""
    for values in step_log.follow(steps, stop):
        shown = {"loss": values.get("loss"), "accuracy": values.get("accuracy_masked")}
        bar.set_postfix({name: f"{value:.3f}" for name, value in shown.items() if value is not None}, refresh=False)
        bar.update(values["step"] - bar.n)  # backwards if workers were lost and resumed from a checkpoint
