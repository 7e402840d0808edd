"""Ray Serve, and nothing else knows it: an HTTP endpoint in the shape of the OpenAI images API.

A replica holds one model and a queue (emage/batching.py). A request becomes one job a picture, checked before it joins
the queue, so that a bad one can't fail its neighbours. This file knows pictures and seeds; it never sees a token.
"""

import asyncio
import base64
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import ray
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from starlette.exceptions import HTTPException

from emage import hub
from emage.batching import Batcher, DrawingError, Job, Pipe, draw
from emage.config import SamplingConfig, Schedule, ServeConfig, nearest
from emage.errors import InputError
from emage.on_ray import launch, tracking

MODEL = "emage"  # the one name in /v1/models
QUIET = {"log_level": "WARNING"}  # on the terminal of whoever started it; INFO is a line a request
SPARE_S = 10.0  # Serve's own deadline lies this much after ours, which answers in the API's form
SPARE_REQUESTS = 64  # room for /health and refusals while the queue is full

api = FastAPI(title="Emage", description="Text-to-image in the shape of the OpenAI images API.")


Load = Callable[[ServeConfig], Pipe]


# --- What goes over the wire ------------------------------------------------------------------------------------------


class ImageRequest(BaseModel):
    """The body of POST /v1/images/generations; what lies below `user` is ours."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: str = Field(min_length=1, max_length=4_000, examples=["a small red circle above a large blue square"])
    model: str | None = Field(None, description="a name that /v1/models lists")
    n: int | None = Field(1, ge=1, le=10, description="pictures; picture i has the seed `seed + i`")
    size: str | None = Field(None, description="WIDTHxHEIGHT of the model's pictures, or auto")
    response_format: Literal["b64_json"] | None = None
    user: str | None = None
    seed: int | None = Field(None, ge=0, lt=2**53, description="same seed, same picture; none: drawn by chance")
    candidates: int = Field(1, ge=1, le=16, description="pictures drawn for each one returned, the best by `rank`")
    rank: Literal["none", "likelihood"] = "likelihood"
    steps: int | None = None
    schedule: Schedule | None = None
    order: Literal["confidence", "random", "halton"] | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    gumbel: float | None = None
    revise: Literal["argmax", "sample"] | None = None
    guidance: float | None = None
    guidance_schedule: Literal["constant", "linear"] | None = None
    remask: float | None = None

    def sampling(self) -> dict[str, Any]:
        """The sampling settings that the request names."""
        return self.model_dump(exclude_none=True, include=set(SamplingConfig.__dataclass_fields__))


class Picture(BaseModel):
    """A PNG and the seed that draws it again."""

    b64_json: str
    seed: int


class ImageResponse(BaseModel):
    """The answer of POST /v1/images/generations."""

    created: int
    data: list[Picture]
    prompt_cut: bool = Field(description="whether the prompt is longer than the model reads, so that its end was lost")


class ApiError(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.param, self.code = status, param, code


@api.exception_handler(ApiError)
async def _refuse(_: Request, error: ApiError) -> JSONResponse:
    kind = "server_error" if error.status >= 500 else "invalid_request_error"
    if error.status in (408, 429):
        kind = {408: "timeout_error", 429: "rate_limit_error"}[error.status]
    body = {"message": str(error), "type": kind, "param": error.param, "code": error.code}
    headers = {"Retry-After": "1"} if error.status in (429, 503) else None
    return JSONResponse({"error": body}, error.status, headers)


@api.exception_handler(RequestValidationError)
async def _refuse_body(request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:] if isinstance(part, str)) or None
    message, code = f"{param or 'body'}: {first['msg']}", "invalid_value"
    if first["type"] == "extra_forbidden":
        message = f"unknown parameter {param!r}{nearest(param or '', list(ImageRequest.model_fields))}"
        code = "unknown_parameter"
    elif first["type"] == "missing":
        message, code = f"{param or 'a JSON body'} is required", "missing_required_parameter"
    elif first["type"] == "json_invalid":
        message, param, code = f"the body is not JSON: {first['ctx']['error']}", None, "invalid_json"
    return await _refuse(request, ApiError(400, message, param, code))


@api.exception_handler(HTTPException)
async def _refuse_route(request: Request, error: HTTPException) -> JSONResponse:
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    message = f"{request.method} {request.url.path}: {error.detail}"
    return await _refuse(request, ApiError(error.status_code, message, code=code))


@api.exception_handler(Exception)
async def _fail(request: Request, _: Exception) -> JSONResponse:
    message = "something went wrong here; the server's log says what"
    return await _refuse(request, ApiError(500, message, code="internal_error"))


# --- A replica --------------------------------------------------------------------------------------------------------


@serve.deployment
@serve.ingress(api)
class Endpoint:
    """A replica: one model, its queue, its routes. Ready once it has drawn a picture."""

    def __init__(self, config: ServeConfig, load: Load):
        self._config, self._pipe, self._requests = config, load(config), 0
        self._created = int(time.time())
        self._batcher = Batcher(self._pipe, config.max_batch_size, config.batch_wait_s)
        draw(self._pipe, [Job("a warm-up", 0, self._pipe.settings(), candidates=1, rank="none")])

    @api.post("/v1/images/generations")
    async def generations(self, request: ImageRequest) -> ImageResponse:
        """Draws `n` pictures of a prompt."""
        jobs = self._jobs(request)
        limit = self._config.max_batch_size + self._config.max_queued_requests
        if self._requests >= limit:
            raise ApiError(429, f"{limit} requests are waiting; try again in a moment", code="rate_limit_exceeded")
        self._requests += 1
        try:
            drawing = asyncio.gather(*map(self._batcher.draw, jobs))
            pngs = await asyncio.wait_for(drawing, self._config.timeout_s)
        except asyncio.TimeoutError:
            raise ApiError(408, f"no picture within {self._config.timeout_s:g} s", code="timeout") from None
        except DrawingError:
            raise ApiError(500, "drawing failed; the server's log says why", code="drawing_failed") from None
        finally:
            self._requests -= 1
        pictures = [base64.b64encode(png).decode() for png in pngs]
        data = [Picture(b64_json=text, seed=job.seed) for text, job in zip(pictures, jobs, strict=True)]
        cut = self._pipe.num_cut([request.prompt]) > 0
        return ImageResponse(created=int(time.time()), data=data, prompt_cut=cut)

    @api.get("/v1/models")
    async def models(self) -> dict[str, Any]:
        """The one model there is."""
        model = {"id": MODEL, "object": "model", "created": self._created, "owned_by": "emage"}
        return {"object": "list", "data": [model]}

    @api.get("/health")
    async def health(self) -> dict[str, str]:
        """Serve routes here only once `__init__` has returned, warm-up picture and all."""
        return {"status": "ok"}

    def _jobs(self, request: ImageRequest) -> list[Job]:
        """One job a picture. Raises ApiError where the model can't do what is asked."""
        if not request.prompt.strip():
            raise ApiError(400, "prompt: it is blank", "prompt", "invalid_value")
        if request.model not in (None, MODEL):
            raise ApiError(404, f"no model {request.model!r} here, only {MODEL!r}", "model", "model_not_found")
        height, width = self._pipe.size
        if request.size not in (None, "auto", f"{width}x{height}"):
            raise ApiError(400, f"size: this model draws {width}x{height}", "size", "invalid_value")
        sampling = request.sampling()
        try:
            settings = self._pipe.settings(**sampling)
        except InputError as error:
            param = next((name for name in sampling if str(error).startswith(name)), None)
            raise ApiError(400, str(error), param, "invalid_value") from None
        seed = secrets.randbits(32) if request.seed is None else request.seed
        candidates, rank = request.candidates, request.rank
        return [Job(request.prompt, seed + i, settings, candidates, rank) for i in range(request.n or 1)]


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
        serve.delete(MODEL)  # drains
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
    launch.start_ray()
    options = {"host": config.host, "port": config.port, "request_timeout_s": config.timeout_s + SPARE_S}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(http_options=options, logging_config=QUIET)
    try:
        serve.run(application(config, load), name=MODEL)
    except RuntimeError:
        reason = _reason()
        stop()
        raise InputError(f"{config.checkpoint} could not be served: {reason}") from None
    return f"http://{config.host}:{config.port}"


def stop() -> None:
    """Drains the replicas and shuts Serve down; Ray goes on."""
    serve.shutdown()


def application(config: ServeConfig, load: Load | None = None) -> serve.Application:
    """What `serve run` and `serve deploy` take. `load` makes the model in a replica; none: from the checkpoint."""
    limit = config.max_batch_size + config.max_queued_requests
    endpoint = Endpoint.options(  # type: ignore[attr-defined]
        num_replicas=config.num_replicas,
        ray_actor_options={"num_gpus": config.gpus_per_replica},
        max_ongoing_requests=limit + SPARE_REQUESTS,
        max_queued_requests=4 * (limit + SPARE_REQUESTS),  # at the proxy: a flood gets its own 503
        max_constructor_retry_count=1,
        graceful_shutdown_timeout_s=config.timeout_s,
        logging_config=QUIET,
    )
    return endpoint.bind(config, load or load_checkpoint)


def load_checkpoint(config: ServeConfig) -> Pipe:
    """The model, on the replica's device."""
    import torch

    import emage

    if config.gpus_per_replica == 0:  # Ray allows an actor of one CPU one thread
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.num_replicas))
    return emage.Emage.from_pretrained(config.checkpoint, device=config.device, dtype=config.dtype)


def check(config: ServeConfig) -> ServeConfig:
    """The config with the checkpoint folder's full path. Raises InputError where it is none or is damaged."""
    folder = hub.local(config.checkpoint)
    if folder is None:
        if config.checkpoint.count("/") == 1 and not config.checkpoint.startswith((".", "/")):
            return config  # may be a hub id: the replica fetches it
        raise InputError(f"checkpoint={config.checkpoint}: there is no such folder")
    from emage import checkpoint

    checkpoint.check(folder)
    return replace(config, checkpoint=str(folder.resolve()))


def curl(url: str) -> str:
    """A line to paste into a terminal: one picture into picture.png."""
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
    trace = serve.status().applications[MODEL].deployments["Endpoint"].message
    lines = [line.strip() for line in trace.splitlines() if line.strip()]
    return lines[-1].removeprefix("emage.errors.InputError: ") if lines else "see Ray's log"


def _wait_for_signal() -> None:
    stopped = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    stopped.wait()
    for number, handler in before.items():
        signal.signal(number, handler)
