"""The paper's tables and figures: run the experiments that are not finished, on Ray, and write the reports.

output/models, evaluations, latency, ...   one folder per experiment (emage.reproduce.experiments)
output/table3.md, .json, .png              one of each per study; findings.md of `all`
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray

from emage.config import EvaluateConfig, ReproduceConfig, Table2Config, TrainConfig, check
from emage.model.device_support import check_device
from emage.on_ray import launch
from emage.on_ray.evaluation.driver import evaluate
from emage.on_ray.training.driver import train
from emage.reproduce import experiments, latency, requirements, shapes_dataset, studies, tokenizer_comparison
from emage.reproduce.latency import LatencyConfig
from emage.reproduce.recipes import MethodGrid, Strips
from emage.reproduce.report import charts
from emage.reproduce.report import write as report
from emage.reproduce.shapes_dataset import SmallWorld
from emage.training import plot_curves
from emage.utils import manifest
from emage.utils.errors import InputError


def _train(config: TrainConfig) -> dict[str, Any]:
    """Train; return the folder's name, the loss at the end and its curve."""
    model = Path(train(config)["model"])
    return {"model": model.name, **charts.loss_curve(model.parent / plot_curves.STEPS)}


# Type of an experiment's settings -> the program that runs it and returns its result.
PROGRAMS: dict[type, Callable[[Any], dict[str, Any]]] = {
    SmallWorld: shapes_dataset.make,
    TrainConfig: _train,
    EvaluateConfig: evaluate,
    LatencyConfig: latency.measure,
    Table2Config: tokenizer_comparison.run,
    Strips: report.write_filmstrips,
    MethodGrid: report.write_method_grid,
}


def reproduce(config: ReproduceConfig) -> None:
    """Run the experiments that a table or figure needs, then write it. Processes with one output share the work.

    With `config.dry_run`, only print which experiments are missing and what they need.

    Raises:
        InputError: A setting is not usable, or data that the scale needs is missing.
    """
    validate(config)
    output = Path(config.output).absolute()
    config = replace(config, output=str(output))
    wanted = studies.requested(config)
    todo = studies.experiments_of(wanted)
    lacking = requirements.missing(config, todo)
    print(requirements.describe(config, todo, output), flush=True)
    if config.dry_run:
        print(*(f"missing     {what}" for what in lacking), sep="\n")
        return
    if lacking:
        raise InputError(f"scale={config.scale} needs {'; '.join(lacking)}")
    requirements.load_weights(experiments.unfinished(todo, output))
    manifest.claim_output(output, "reproduce", {"scale": config.scale})
    if config.force:
        experiments.set_aside(todo, output)
    on_gpu = config.scale == "paper" and config.device != "cpu"
    experiments.run_all(todo, output, lambda one: _run_experiment(one, on_gpu))
    for path in report.write(config, wanted, output):
        print(f"report: {path}")


def _run_experiment(settings: Any, on_gpu: bool) -> dict[str, Any]:
    """Run an experiment's program: in this process if it starts Ray itself or needs no GPU, else on a GPU node."""
    program = PROGRAMS[type(settings)]
    if not on_gpu or isinstance(settings, TrainConfig | EvaluateConfig | SmallWorld):
        return program(settings)
    launch.start_ray()
    return ray.get(ray.remote(num_gpus=1, max_retries=2)(program).remote(settings))


def validate(config: ReproduceConfig) -> None:
    """Raise InputError for settings that are not allowed, or a device that is not available."""
    check(config)
    if config.device != "auto":
        check_device(config.device)
