"""Checkpoint -> HTTP endpoint on Ray Serve: the driver starts it, prints its URL, waits for a signal and drains it."""

import logging
import os
import signal
import threading
from typing import Any

import ray
import ray.serve

from emage.config import ServeConfig, check
from emage.on_ray import launch
from emage.on_ray.serving import application, checks
from emage.on_ray.serving.application import Inputs
from emage.on_ray.serving.deployment import Load, load_checkpoint
from emage.serving.request import MODEL_NAME
from emage.utils.errors import InputError

PROXY_GRACE_S = 30.0  # between our timeout, answered in the API's form, and that of Serve's proxy


def serve(config: ServeConfig) -> dict[str, Any]:
    """Serve until SIGINT or SIGTERM, then drain.

    Returns:
        The report, which is printed once the endpoint is ready: its `url` and the `checkpoint`.

    Raises:
        InputError: Settings, port, GPUs, API key, safety hook or checkpoint are not usable.
    """
    validate(config)
    inputs = resolve(config)
    with launch.ray_run(inputs.config, "serve", min_cpus=application.count_cpus(config)):
        return run(inputs)


def validate(config: ServeConfig) -> None:
    """Raise InputError for settings that no machine could run."""
    check(config)
    if not config.gpus_per_replica and not config.device.startswith("cuda"):
        from emage.model import device_support  # loads PyTorch

        device_support.check_dtype(config.dtype, "cpu")


def resolve(config: ServeConfig) -> Inputs:
    """Check this machine's port and GPUs; read the API key, the safety hook and the checkpoint. Raises InputError."""
    checks.check_port(config.host, config.port)
    launch.check_gpus(config.gpus_per_replica * config.num_replicas, "gpus_per_replica")
    return application.read_inputs(config)


def run(inputs: Inputs) -> dict[str, Any]:
    """Start the endpoint, print the report, wait for a signal, drain and leave Ray."""
    report = {"url": start(inputs), "checkpoint": inputs.config.checkpoint}
    try:
        print_report(report)
        _wait_for_signal()
    finally:
        ray.serve.delete(MODEL_NAME)  # drains
        if os.environ.get("RAY_ADDRESS"):
            ray.serve.shutdown()
        else:
            ray.shutdown()  # this process started Ray; ray.serve.shutdown would print more
    return report


def print_report(report: dict[str, Any]) -> None:
    """Print the endpoint's address and a command line to try it."""
    print(f"\nready: {report['url']} (Ctrl-C ends it)\n\n{curl(report['url'])}\n", flush=True)


def start(inputs: Inputs, load: Load = load_checkpoint) -> str:
    """Deploy the endpoint on the running Ray cluster; return its URL once it is ready.

    `load` loads the model in a replica. Raises InputError if that fails.
    """
    config = inputs.config
    options = {"host": config.host, "port": config.port, "request_timeout_s": config.timeout_s + PROXY_GRACE_S}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    ray.serve.start(http_options=options, logging_config=application.QUIET_LOGGING)
    try:
        # One attempt: the user waits at the terminal for the error.
        ray.serve.run(application.build(inputs, load, max_constructor_retry_count=1), name=MODEL_NAME)
    except RuntimeError:
        reason = _load_error_text()
        stop()
        raise InputError(f"{config.checkpoint} could not be served: {reason}") from None
    return f"http://{config.host}:{config.port}"


def stop() -> None:
    """Drain the replicas and shut Serve down; Ray stays."""
    ray.serve.shutdown()


def curl(url: str) -> str:
    """Return a command line that requests one image and writes it to image.png."""
    body = '{"prompt": "a small red circle above a large blue square", "seed": 7}'
    request = f"curl -s {url}/v1/images/generations -H 'Content-Type: application/json' -d '{body}'"
    decode = "import base64, json, sys; sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)"
    return f"""{request} | python3 -c '{decode}["data"][0]["b64_json"]))' > image.png"""


def _load_error_text() -> str:
    """Return the error that the replica's start raised: the last line of the stack trace in the deployment's status."""
    trace = ray.serve.status().applications[MODEL_NAME].deployments["Model"].message
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return lines[-1].removeprefix("emage.utils.errors.InputError: ") if lines else "see Ray's log"


def _wait_for_signal() -> None:
    stopped = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    stopped.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
