"""The deployment that holds a model: a replica of it is one service (emage/serving/service.py) with its own queue."""

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ray import serve

from emage.config import ServeConfig
from emage.on_ray.serving import checks
from emage.on_ray.serving.metrics import ModelMetrics
from emage.serving.request import GeneratedImage, GenerationRequest, PreviewImage, RequestError
from emage.serving.service import QueueLimits, Service, ServicePipeline

NOT_LOADED_TEXT = "it could not be loaded; the server's log has the reason"
STUCK_S = 60.0  # a decoding step that takes longer than this, and longer than `timeout_s`, is considered stuck

Load = Callable[[ServeConfig], ServicePipeline]  # loads the model of `config.checkpoint`

_log = logging.getLogger(__name__)


@serve.deployment
class Model:
    """A replica: one model and its queue. Serve sends it requests once it has generated an image.

    It returns errors of clients instead of raising them: an exception would fill the log with stack traces.
    """

    def __init__(self, config: ServeConfig, load: Load):
        self._config, self._load, self._metrics = config, load, ModelMetrics()
        self._service: Service | None = None
        self._requested = ""  # the newest checkpoint of `user_config`
        self._reload: asyncio.Task[None] | None = None
        self._reload_state: dict[str, str] = {}  # shown by /v1/models

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load the checkpoint of `user_config`: called by Serve before the first request and after each change.

        This call waits for the first model. A later one is loaded in the background while the previous one generates,
        because Serve sends no request here until this call returns.
        """
        checkpoint = user_config["checkpoint"]
        if self._service is None:
            self._service = await self._start_service(checkpoint)
        elif checkpoint != self._requested:
            if self._reload:
                self._reload.cancel()
            self._reload = asyncio.create_task(self._replace(self._service, checkpoint))
        self._requested = checkpoint

    async def _start_service(self, checkpoint: str) -> Service:
        """Return a service with the first model: if `checkpoint` cannot be loaded, that of the application's `args`."""
        config = self._config
        try:
            pipe = await self._load_pipeline(checkpoint)
        except Exception as error:
            if checkpoint == config.checkpoint:
                raise
            self._note_failed_load(checkpoint, error)
            pipe = await self._load_pipeline(config.checkpoint)
        limits = QueueLimits(config.max_batch_size, config.batch_wait_s, config.max_queued)
        service = Service(pipe, limits, checks.load_safety(config.access.safety), self._metrics.record_batch)
        await service.warm_up()
        self._metrics.record_model(pipe.metadata.get("step", 0))
        return service

    async def _replace(self, service: Service, checkpoint: str) -> None:
        """Load another checkpoint and let the service use it; if that fails, the previous model stays."""
        self._reload_state = {"loading": _public_name(checkpoint)}
        try:
            pipe = await self._load_pipeline(checkpoint)
            await service.replace(pipe)
        except Exception as error:  # whatever is wrong with the new model, the previous one still generates
            self._note_failed_load(checkpoint, error)
        else:
            self._metrics.record_model(pipe.metadata.get("step", 0))
            self._reload_state = {}

    async def _load_pipeline(self, checkpoint: str) -> ServicePipeline:
        return await asyncio.to_thread(self._load, replace(self._config, checkpoint=checkpoint))

    def _note_failed_load(self, checkpoint: str, error: Exception) -> None:
        _log.error("%s could not be loaded; the previous model stays", checkpoint, exc_info=error)
        # Not the error itself: clients read this, and its text may hold paths of this machine, or what a file held.
        self._reload_state = {"not_loaded": _public_name(checkpoint), "reason": NOT_LOADED_TEXT}

    async def generate(self, request: GenerationRequest) -> list[GeneratedImage] | RequestError:
        try:
            return await self._ready_service.generate(request)
        except RequestError as error:
            return error

    async def stream(self, request: GenerationRequest) -> AsyncIterator[PreviewImage | GeneratedImage | RequestError]:
        try:
            async with contextlib.aclosing(self._ready_service.stream(request)) as events:
                async for event in events:
                    yield event
        except RequestError as error:
            yield error

    async def describe(self) -> dict[str, Any] | RequestError:
        try:
            return await self._ready_service.describe() | ({"reload": self._reload_state} if self._reload_state else {})
        except RequestError as error:
            return error

    def check_health(self) -> None:
        """Raise RuntimeError if this replica must be replaced. Serve calls this every HEALTH_PERIOD_S."""
        if self._service is None:
            return
        if self._service.broken:
            raise RuntimeError("the model cannot generate any more")
        if self._service.stuck_s > max(self._config.timeout_s, STUCK_S):
            raise RuntimeError(f"a decoding step has not ended for {self._service.stuck_s:.0f} s")

    @property
    def _ready_service(self) -> Service:
        assert self._service is not None, "Serve calls reconfigure before it sends a request"
        return self._service


def _public_name(checkpoint: str) -> str:
    """Return what clients may know of a checkpoint's place: a hub id, or the last folder of a path."""
    return Path(checkpoint).name if Path(checkpoint).is_absolute() else checkpoint


def load_checkpoint(config: ServeConfig) -> ServicePipeline:
    """Load the model of `config.checkpoint` on the replica's device."""
    import torch

    import emage

    if config.gpus_per_replica == 0:  # for an actor of one CPU, Ray sets PyTorch to one thread
        torch.set_num_threads(cpu_threads(config))
    pipe = emage.Emage.from_pretrained(config.checkpoint, device=config.device, dtype=config.dtype)
    if config.compile:
        pipe.compile()
    if pipe.device.type == "cuda":  # CUDA graphs of every batch size are captured before the first request
        pipe.warm_up(range(1, config.max_batch_size + 1))
    return pipe


def cpu_threads(config: ServeConfig) -> int:
    """Return the number of threads of each replica without a GPU: all cores but one, which is left for HTTP.

    Another number of threads may change pixels, because sums are rounded in another order.
    """
    return max(1, ((os.cpu_count() or 1) - 1) // config.num_replicas)
