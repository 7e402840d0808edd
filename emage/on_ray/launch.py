"""What every pipeline starts with: the Ray cluster, the lock on its output, GPUs that are there."""

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
from filelock import FileLock, Timeout

from emage.utils.errors import InputError

# What Ray Serve puts around its HTTP proxy, by an environment variable of the nodes.
PROXY_HOOK = ("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "emage.on_ray.serving.http_proxy:middlewares")


def check_gpus(wanted: float, settings: str) -> None:
    """Raises InputError where a job on this machine alone asks for more GPUs than it has: Ray would wait for ever.

    `settings` says what asks for them. A cluster may grow, so that there nothing is refused.
    """
    if os.environ.get("RAY_ADDRESS") or not wanted:
        return
    import torch

    there = torch.cuda.device_count()
    if there < wanted:
        raise InputError(
            f"{settings} asks for {wanted:g} GPUs and this machine has {there}: lower it, or set RAY_ADDRESS"
        )


@contextmanager
def alone(output: Path) -> Iterator[None]:
    """Raises InputError while another program writes into the same output. The lock goes with its process."""
    lock = FileLock(output / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"{output}: another run is writing there; wait for it, or stop it") from None
    try:
        yield
    finally:
        lock.release()


def start_ray(least_cpus: float = 0) -> None:
    """Joins the cluster of RAY_ADDRESS (a job has it set), or starts one on this machine for this process.

    `least_cpus`: logical ones that a started one has at least; what asks for more would wait for ever.
    """
    if ray.is_initialized():
        return
    # Workers inherit it: img2dataset's albumentations would ask the internet for its newest version.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(logging_level=logging.WARNING)
        return
    # Four logical CPUs at least: a data pipeline holds several small tasks at once, even on two cores.
    num_cpus = max(4, os.cpu_count() or 1, math.ceil(least_cpus))
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # nobody takes this machine away
    # Ray Serve replaces a proxy that is not ready in time, and a busy machine would never get one to the end.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    os.environ.setdefault(*PROXY_HOOK)
    # Serve gives user code and its router an event loop each, in threads of their own. The endpoint's code never blocks
    # one, and every change of thread costs a request milliseconds (benchmarks/serve.py).
    for loop in ("RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD", "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP"):
        os.environ.setdefault(loop, "0")
    # With the dashboard, Ray Train can ask how its controller is; without it, it complains every second.
    ray.init(address="local", num_cpus=num_cpus, include_dashboard=True, logging_level=logging.WARNING)
