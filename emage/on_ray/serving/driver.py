"""Ray Serve: the endpoint of emage/serving/http in front of replicas of its service.py, each with a model of its own.

    client ── proxy ── Frontend (HTTP; knows no model) ── Model (a queue, a model; on a GPU)

Two deployments, so that the page, the errors and the health check answer while a model is loaded or lost, and a lost
model's orders go to another. This file knows how they start, stop, scale and get another model; it never sees a token.
"""

import asyncio
import contextlib
import hashlib
import importlib
import inspect
import logging
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray import serve

from emage.config import ServeConfig
from emage.model import hub
from emage.on_ray import launch, tracking
from emage.on_ray.serving.frontend import Frontend
from emage.on_ray.serving.metrics import ModelMetrics
from emage.serving.http.app import Options
from emage.serving.http.auth import AccessOptions, is_loopback
from emage.serving.request import MODEL_NAME, GeneratedImage, GenerationRequest, PreviewImage, RequestError
from emage.serving.service import QueueLimits, SafetyHook, Service, ServicePipeline
from emage.utils.errors import InputError

QUIET = {"log_level": "WARNING"}  # on the terminal of whoever started it; INFO is a line a request
SPARE_S = 30.0  # Serve's own deadline lies this much after ours, which answers in the API's form
SPARE_REQUESTS = 64  # at a replica, beside its queue: it refuses in the API's form what Serve would refuse in its own
FRONTEND_CPUS = 0.5
FRONTEND_REQUESTS = 4_096  # open at once at one frontend; more are refused by Serve
HEALTH_PERIOD_S = 2.0  # a replica that is found unhealthy three times is replaced
STUCK_S = 60.0  # a pass that takes longer, and longer than a whole request may, will not end
API_KEY = "EMAGE_API_KEY"  # environment variable

Load = Callable[[ServeConfig], ServicePipeline]

_log = logging.getLogger(__name__)


# --- The deployment that draws ----------------------------------------------------------------------------------------


@serve.deployment
class Model:
    """A replica: one model and its queue. Ready once it has drawn an image.

    What it refuses it returns: an exception would fill the log with what clients did wrong.
    """

    def __init__(self, config: ServeConfig, load: Load):
        self._config, self._load, self._metrics = config, load, ModelMetrics()
        self._service: Service | None = None
        self._asked = ""  # the checkpoint of `user_config`
        self._reload: asyncio.Task[None] | None = None
        self._news: dict[str, str] = {}  # of a reload, for /v1/models

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve calls it before the first request, and when anything of `user_config` or of the replica's rank changes.

        The first model is waited for. A later one is loaded while the one before goes on drawing: Serve would send
        nothing here until this returned.
        """
        checkpoint = user_config["checkpoint"]
        if self._service is None:
            self._service = await self._begin(checkpoint)
        elif checkpoint != self._asked:
            if self._reload:
                self._reload.cancel()
            self._reload = asyncio.create_task(self._replace(self._service, checkpoint))
        self._asked = checkpoint

    async def _begin(self, checkpoint: str) -> Service:
        """With the first model: the one of `args` where another was deployed meanwhile and can't be loaded."""
        config = self._config
        try:
            pipe = await self._loaded(checkpoint)
        except Exception as error:
            if checkpoint == config.checkpoint:
                raise
            self._refuse(checkpoint, error)
            pipe = await self._loaded(config.checkpoint)
        limits = QueueLimits(config.max_batch_size, config.batch_wait_s, config.max_queued)
        service = Service(pipe, limits, _safety(config.access.safety), self._metrics.record_batch)
        await service.warm_up()
        self._metrics.record_model(pipe.facts.get("step", 0))
        return service

    async def _replace(self, service: Service, checkpoint: str) -> None:
        self._news = {"loading": checkpoint}
        try:
            pipe = await self._loaded(checkpoint)
            await service.replace(pipe)
        except Exception as error:  # whatever is wrong with the new one, the old one still draws
            self._refuse(checkpoint, error)
        else:
            self._metrics.record_model(pipe.facts.get("step", 0))
            self._news = {}

    async def _loaded(self, checkpoint: str) -> ServicePipeline:
        return await asyncio.to_thread(self._load, replace(self._config, checkpoint=checkpoint))

    def _refuse(self, checkpoint: str, error: Exception) -> None:
        _log.error("%s could not be loaded; the model before goes on", checkpoint, exc_info=error)
        self._news = {"not_loaded": checkpoint, "reason": (str(error) or repr(error)).splitlines()[0][:300]}

    async def generate(self, request: GenerationRequest) -> list[GeneratedImage] | RequestError:
        try:
            return await self._there.generate(request)
        except RequestError as error:
            return error

    async def stream(self, request: GenerationRequest) -> AsyncIterator[PreviewImage | GeneratedImage | RequestError]:
        try:
            async with contextlib.aclosing(self._there.stream(request)) as events:
                async for event in events:
                    yield event
        except RequestError as error:
            yield error

    async def describe(self) -> dict[str, Any] | RequestError:
        try:
            return await self._there.describe() | ({"reload": self._news} if self._news else {})
        except RequestError as error:
            return error

    def check_health(self) -> None:
        """Serve replaces a replica for which this raises."""
        if self._service is None:
            return
        if self._service.broken:
            raise RuntimeError("the model can't draw any more")
        if self._service.stuck_s > max(self._config.timeout_s, STUCK_S):
            raise RuntimeError(f"a pass has not ended for {self._service.stuck_s:.0f} s")

    @property
    def _there(self) -> Service:
        assert self._service is not None, "Serve reconfigures before it sends anything"
        return self._service


# --- Starting and stopping --------------------------------------------------------------------------------------------


def run(config: ServeConfig) -> None:
    """Serves until SIGINT or SIGTERM, then drains. Starts Ray, once all is checked that can be without it."""
    config = check(config)
    _check_port(config.host, config.port)
    with tracking.start(config.mlflow, stage="serve", settings=config):
        _serve(config)


def _serve(config: ServeConfig) -> None:
    url = start(config)
    try:
        print(f"\nready: {url} (Ctrl-C ends it)\n\n{curl(url)}\n", flush=True)
        _wait_for_signal()
    finally:
        serve.delete(MODEL_NAME)  # drains
        if os.environ.get("RAY_ADDRESS"):
            serve.shutdown()
        else:
            ray.shutdown()  # ours, and quieter than Serve's own end


def start(config: ServeConfig, load: Load | None = None) -> str:
    """Deploys an endpoint and returns its URL once it is ready. Starts Ray where it is not running.

    Raises InputError where the port or the GPUs aren't to be had, or the model doesn't load.
    """
    _check_port(config.host, config.port)
    launch.check_gpus(config.gpus_per_replica * config.num_replicas, "gpus_per_replica")
    replicas = max(config.num_replicas, config.autoscaling.max_replicas)
    launch.start_ray(replicas + FRONTEND_CPUS * config.num_frontends)
    options = {"host": config.host, "port": config.port, "request_timeout_s": config.timeout_s + SPARE_S}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(http_options=options, logging_config=QUIET)
    try:
        # One attempt: the user waits at the terminal.
        serve.run(application(config, load, max_constructor_retry_count=1), name=MODEL_NAME)
    except RuntimeError:
        reason = _reason()
        stop()
        raise InputError(f"{config.checkpoint} could not be served: {reason}") from None
    return f"http://{config.host}:{config.port}"


def stop() -> None:
    """Drains the replicas and shuts Serve down; Ray goes on."""
    serve.shutdown()


def application(config: ServeConfig, load: Load | None = None, **options: Any) -> serve.Application:
    """What `serve run` and `serve deploy` take. `load` makes the model in a replica; none: from the checkpoint.

    `options`: further ones of the Model deployment.
    """
    access = AccessOptions(_key_sha256(config), tuple(config.access.origins), int(config.access.max_upload_mb * 1e6))
    model = Model.options(  # type: ignore[attr-defined]
        **_scale(config),
        ray_actor_options={"num_gpus": config.gpus_per_replica},
        user_config={"checkpoint": config.checkpoint},
        max_ongoing_requests=config.max_batch_size + config.max_queued + SPARE_REQUESTS,
        max_queued_requests=FRONTEND_REQUESTS,
        health_check_period_s=HEALTH_PERIOD_S,
        graceful_shutdown_timeout_s=config.timeout_s,
        logging_config=QUIET,
        **options,
    )
    frontend = Frontend.options(  # type: ignore[attr-defined]
        num_replicas=config.num_frontends,
        ray_actor_options={"num_cpus": FRONTEND_CPUS},
        max_ongoing_requests=FRONTEND_REQUESTS,
        graceful_shutdown_timeout_s=config.timeout_s,
        logging_config=QUIET,
    )
    return frontend.bind(model.bind(config, load or load_checkpoint), Options(config.timeout_s, access))


def _scale(config: ServeConfig) -> dict[str, Any]:
    """A fixed number of replicas, or one that follows the load."""
    scale = config.autoscaling
    if not scale.max_replicas:
        return {"num_replicas": config.num_replicas}
    return {
        "autoscaling_config": {
            "min_replicas": config.num_replicas,
            "max_replicas": scale.max_replicas,
            "target_ongoing_requests": scale.target_ongoing_requests,
            "upscale_delay_s": scale.upscale_delay_s,
            "downscale_delay_s": scale.downscale_delay_s,
        }
    }


def _key_sha256(config: ServeConfig) -> str | None:
    """The API key's sha256, which is all that goes to the cluster. Raises InputError for a key that is none."""
    key, file = os.environ.get(API_KEY, ""), config.access.api_key_file
    if file is not None:
        try:
            key = Path(file).read_text()
        except OSError as error:
            raise InputError(f"access.api_key_file={file}: {error.strerror}") from None
        if not key.strip():
            raise InputError(f"access.api_key_file={file} is empty: write the key into it")
    return hashlib.sha256(key.strip().encode()).hexdigest() if key.strip() else None


def _safety(name: str | None) -> SafetyHook | None:
    """The hook of this name, module:function. Raises InputError where there is none."""
    if name is None:
        return None
    module, _, function = name.partition(":")
    try:
        hook: Any = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"access.safety={name} is no module:function ({error})") from None
    if not inspect.isroutine(hook):
        raise InputError(f"access.safety={name} is no function")
    return hook


def load_checkpoint(config: ServeConfig) -> ServicePipeline:
    """The model, on the replica's device."""
    import torch

    import emage

    if config.gpus_per_replica == 0:  # Ray allows an actor of one CPU one thread
        torch.set_num_threads(cpu_threads(config))
    pipe = emage.Emage.from_pretrained(config.checkpoint, device=config.device, dtype=config.dtype)
    if config.compile:
        pipe.compile()
    if pipe.device.type == "cuda":  # every size of batch is recorded before the first request
        pipe.warm_up(range(1, config.max_batch_size + 1))
    return pipe


def cpu_threads(config: ServeConfig) -> int:
    """Threads that each replica draws with where there is no GPU: all cores but one, which is left for HTTP.

    Another number may change pixels: sums are rounded in another order.
    """
    return max(1, ((os.cpu_count() or 1) - 1) // config.num_replicas)


def check(config: ServeConfig) -> ServeConfig:
    """The config with the checkpoint folder's full path. Raises InputError where it is none or is damaged."""
    if _key_sha256(config) is None and not is_loopback(config.host):
        raise InputError(
            f"host={config.host} is open to other machines: set {API_KEY} to the key that clients must send, or name "
            "its file as access.api_key_file"
        )
    _safety(config.access.safety)
    if not config.gpus_per_replica and not config.device.startswith("cuda"):
        from emage.model import device_support  # loads PyTorch

        device_support.check_dtype(config.dtype, "cpu")
    folder = hub.local(config.checkpoint)
    if folder is None:
        if config.checkpoint.count("/") == 1 and not config.checkpoint.startswith((".", "/")):
            return config  # may be a hub id: the replica fetches it
        raise InputError(f"checkpoint={config.checkpoint}: there is no such folder")
    from emage.model import checkpoint

    checkpoint.check(folder)
    return replace(config, checkpoint=str(folder.resolve()))


def curl(url: str) -> str:
    """A line to paste into a terminal: one image into picture.png."""
    body = '{"prompt": "a small red circle above a large blue square", "seed": 7}'
    request = f"curl -s {url}/v1/images/generations -H 'Content-Type: application/json' -d '{body}'"
    decode = "import base64, json, sys; sys.stdout.buffer.write(base64.b64decode(json.load(sys.stdin)"
    return f"""{request} | python3 -c '{decode}["data"][0]["b64_json"]))' > picture.png"""


def _check_port(host: str, port: int) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taken.bind((host, port))
    except (OSError, OverflowError) as error:
        raise InputError(f"cannot listen on {host}:{port} ({error}): choose another port=") from None


def _reason() -> str:
    """What the replica's `__init__` raised: the last line of the stack trace in the deployment's status."""
    trace = serve.status().applications[MODEL_NAME].deployments["Model"].message
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return lines[-1].removeprefix("emage.utils.errors.InputError: ") if lines else "see Ray's log"


def _wait_for_signal() -> None:
    stopped = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    stopped.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
