"""The start of every driver (ingest, training, evaluation, serving): claim the output, lock it, start Ray, open MLflow.

Each driver is one function of its settings and has this shape:

    validate(config)                              checks the settings alone; reads no file
    inputs = resolve(config)                      makes paths absolute, reads and loads each input once; writes nothing
    with launch.output_run(inputs) as tracked:    claims the output, locks it, starts Ray, opens the MLflow run
        report = run(inputs, tracked)             works
    print_report(report)                          and returns it: a dict of JSON values

A mistake in the settings, the inputs, the machine or the output raises InputError before Ray starts, and leaves no
folder and no MLflow run. Serving writes no output: it opens `ray_run` in place of `output_run`.
"""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import ray
from filelock import FileLock, Timeout

from emage.on_ray import cluster_token, tasks, tracking
from emage.utils import manifest
from emage.utils.errors import InputError

# Environment variable of the nodes that gives Ray Serve's HTTP proxy middlewares, and its value (module:function).
PROXY_HOOK = ("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "emage.on_ray.serving.http_proxy:middlewares")

_TOKEN_LOGGER = "ray._private.authentication.authentication_token_setup"  # nosec B105 # a name


class OutputInputs(Protocol):
    """The part of a driver's `Inputs` that `output_run` reads; each driver's own class holds more."""

    @property
    def config(self) -> Any:
        """The settings, `mlflow` among them; they are recorded in the MLflow run."""
        ...

    @property
    def output(self) -> Path:
        """The folder that the run writes, absolute."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """All settings that the result depends on: a folder made with others is rejected."""
        ...


@contextmanager
def output_run(
    inputs: OutputInputs, stage: str, *, run_file: Path | None = None, parent: str | None = None
) -> Iterator[tracking.TrackedRun]:
    """Claim the output, lock it, start Ray and open the MLflow run, in this order; yield the MLflow run.

    Args:
        inputs: The driver's resolved inputs.
        stage: "ingest", "train" or "evaluate": the stage that writes the folder, also the name of the MLflow run.
        run_file: File that names the MLflow run to continue (emage.on_ray.tracking).
        parent: Id of the MLflow run below which the new one is shown.

    Raises:
        InputError: The folder holds something else, or another program writes there; in the block, also if the disk is
            full or the folder cannot be written.
    """
    manifest.claim_output(inputs.output, stage, inputs.identity)
    with (
        tasks.explain_disk_errors(inputs.output),
        output_lock(inputs.output),
        ray_run(inputs.config, stage, run_file=run_file, parent=parent) as tracked,
    ):
        yield tracked


@contextmanager
def ray_run(
    config: Any, stage: str, *, min_cpus: float = 0, run_file: Path | None = None, parent: str | None = None
) -> Iterator[tracking.TrackedRun]:
    """Start Ray, then open the MLflow run; yield it. For `min_cpus` see `start_ray`, for the rest `output_run`."""
    start_ray(min_cpus)
    with tracking.start(config.mlflow, stage=stage, settings=config, run_file=run_file, parent=parent) as tracked:
        yield tracked


def check_output(output: Path, stage: str, identity: dict[str, Any]) -> None:
    """Raise InputError if the output folder already holds a run with other settings; write nothing.

    `resolve` calls it as soon as it knows the identity, so that another run's results are not taken for finished work.
    """
    if (output / "run.json").exists():
        manifest.claim_output(output, stage, identity)


@contextmanager
def output_lock(output: Path) -> Iterator[None]:
    """Lock the output while the block runs. Raise InputError if another program writes there.

    The lock ends with its process.
    """
    lock = FileLock(output / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{output}: another run is writing there; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def check_gpus(wanted: float, settings: str) -> None:
    """Raise InputError if a job on this machine alone asks for more GPUs than it has: Ray would wait forever.

    A cluster (RAY_ADDRESS is set) may grow: nothing is rejected there.

    Args:
        wanted: Number of GPUs.
        settings: The keys that ask for them, for the message.
    """
    if os.environ.get("RAY_ADDRESS") or not wanted:
        return
    import torch

    available = torch.cuda.device_count()
    if available < wanted:
        raise InputError(
            f"{settings} asks for {wanted:g} GPUs and this machine has {available}: lower it, or set RAY_ADDRESS"
        )


def start_ray(min_cpus: float = 0) -> None:
    """Join the cluster of RAY_ADDRESS (set in a Ray job), or start one on this machine for this process.

    Does nothing if this process has joined one.

    Args:
        min_cpus: Logical CPUs that a cluster started here has at least: a task that asks for more waits forever.

    Raises:
        InputError: This Ray asks for no token, so that whoever reaches its ports could run code.
    """
    if ray.is_initialized():
        return
    quieten_ray()
    # Workers inherit it: albumentations (of img2dataset) would otherwise look up its newest version on the internet.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
        return
    # Four logical CPUs at least: a data pipeline holds several small tasks at once, even on two cores.
    num_cpus = max(4, os.cpu_count() or 1, math.ceil(min_cpus))
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # this machine is never preempted
    # Ray Serve replaces a proxy that is not ready in time; on a busy machine none would be ready within its default.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    os.environ.setdefault(*PROXY_HOOK)
    # Serve gives user code and its router an event loop each, in threads of their own. The endpoint's code never blocks
    # one, and every change of thread costs a request milliseconds (benchmarks/serve.py).
    for loop in ("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"):
        os.environ.setdefault(loop, "0")
    cluster_token.make_private()
    # Without the dashboard Ray Train cannot query its controller's state, and warns every second.
    ray.init(address="local", num_cpus=num_cpus, include_dashboard=True, logging_level=logging.WARNING)
    if not os.environ.get("RAY_AUTH_MODE"):  # `ray.init` sets it, if its ports ask for the token
        ray.shutdown()
        raise InputError(f"Ray {ray.__version__} starts a cluster that asks for no token: pip install 'ray>=2.60'")


def quieten_ray() -> None:
    """Do not show Ray's line that its ports need a token: every process here has it. See also emage/on_ray/__init__."""
    logging.getLogger(_TOKEN_LOGGER).addFilter(_needs_action)


def _needs_action(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("Token authentication is enabled")
