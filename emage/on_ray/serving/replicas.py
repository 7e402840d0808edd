"""The replicas of the model as one backend: a request whose replica is lost goes to another one.

A request may be generated twice, because the same seed gives the same image. It is started twice at most, so that a
request that kills its replica cannot kill all of them.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from emage.serving.error_codes import BROKE_DURING_REQUEST, BROKEN_BEFORE_REQUEST
from emage.serving.request import GeneratedImage, GenerationRequest, PreviewImage, RequestError

REPLICA_LOST_ERRORS = (RayActorError, ObjectLostError, NodeDiedError, WorkerCrashedError)
MAX_ATTEMPTS = 2
RETRY_PAUSE_S = 0.5  # before another attempt, while a replica is being replaced


class Replicas:
    """A backend of the HTTP API (emage.serving.http.backend) over the handle of the Model deployment."""

    def __init__(self, model: DeploymentHandle):
        self._model: Any = model
        self._streaming: Any = model.options(stream=True)

    async def describe(self) -> dict[str, Any]:
        """Return the description of the model by any replica. Raises RequestError."""
        try:
            return await self._await_result(self._model.describe.remote())
        except REPLICA_LOST_ERRORS:
            raise _not_ready_error() from None

    async def generate(self, request: GenerationRequest) -> list[GeneratedImage]:
        """Return the images of a request. Raises RequestError."""
        num_lost = 0
        while True:
            try:
                return await self._await_result(self._model.generate.remote(request))
            except REPLICA_LOST_ERRORS:
                num_lost = _count_lost(num_lost)
            except RequestError as error:
                num_lost = await _wait_or_raise(error, num_lost)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[PreviewImage | GeneratedImage, None]:
        """Yield the events of a request. Raises RequestError."""
        sent: set[tuple[int, int]] = set()  # events that the client has already received from a lost replica
        num_lost = 0
        while True:
            events = self._streaming.stream.remote(request)
            try:
                async for event in events:
                    if isinstance(event, RequestError):
                        raise event
                    key = (event.index, event.preview_index if isinstance(event, PreviewImage) else -1)
                    if key not in sent:
                        sent.add(key)
                        yield event
                return
            except REPLICA_LOST_ERRORS:
                num_lost = _count_lost(num_lost)
            except BackPressureError:
                raise _queue_full_error() from None
            except DeploymentUnavailableError:
                raise _not_ready_error() from None
            except RequestError as error:
                num_lost = await _wait_or_raise(error, num_lost)
            finally:
                events.cancel()  # has no effect if it has ended

    async def _await_result(self, response: Any) -> Any:
        try:
            result = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            raise _queue_full_error() from None
        except DeploymentUnavailableError:
            raise _not_ready_error() from None
        if isinstance(result, RequestError):
            raise result
        return result


def _count_lost(num_lost: int) -> int:
    """Return the number of replicas that this request has lost. Raises RequestError after the last attempt."""
    if num_lost + 1 == MAX_ATTEMPTS:
        raise RequestError("replica_lost", "two replicas were lost while they generated this request", retry_s=1)
    return num_lost + 1


async def _wait_or_raise(error: RequestError, num_lost: int) -> int:
    """Wait if the replica is being replaced, else raise `error`. Return the number of replicas that were lost."""
    if error.code == BROKE_DURING_REQUEST:
        num_lost = _count_lost(num_lost)
    elif error.code != BROKEN_BEFORE_REQUEST:
        raise error
    await asyncio.sleep(RETRY_PAUSE_S)
    return num_lost


def _queue_full_error() -> RequestError:
    return RequestError("rate_limit_exceeded", "too many requests are waiting; try again in a moment", retry_s=1)


def _not_ready_error() -> RequestError:
    return RequestError("not_ready", "no model is ready; try again in a moment", retry_s=5)
