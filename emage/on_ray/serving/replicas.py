"""The replicas of the model as one backend: a request whose replica is lost goes to another one.

Generating twice does no harm, because an image follows from its seed. A request is started twice at most, so that one
that kills the replica that runs it cannot kill them all.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from emage.serving.error_codes import MODEL_BROKE, MODEL_BROKEN
from emage.serving.request import GeneratedImage, GenerationRequest, PreviewImage, RequestError

REPLICA_LOST_ERRORS = (RayActorError, ObjectLostError, NodeDiedError, WorkerCrashedError)
MAX_ATTEMPTS = 2
RETRY_PAUSE_S = 0.5  # before another attempt, while a replica is being replaced


class Replicas:
    """A Backend of emage.serving.http over the handle of the Model deployment."""

    def __init__(self, model: DeploymentHandle):
        self._model: Any = model
        self._streaming: Any = model.options(stream=True)

    async def describe(self) -> dict[str, Any]:
        """Return the description of the model by any replica. Raises RequestError."""
        try:
            return await self._result(self._model.describe.remote())
        except REPLICA_LOST_ERRORS:
            raise _not_ready() from None

    async def generate(self, request: GenerationRequest) -> list[GeneratedImage]:
        """Return the images of a request. Raises RequestError."""
        num_lost = 0
        while True:
            try:
                return await self._result(self._model.generate.remote(request))
            except REPLICA_LOST_ERRORS:
                num_lost = _count_lost(num_lost)
            except RequestError as error:
                num_lost = await _wait_or_raise(error, num_lost)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[PreviewImage | GeneratedImage, None]:
        """Yield the events of a request. Raises RequestError."""
        sent: set[tuple[int, int]] = set()  # events that went out before a replica was lost are not sent again
        num_lost = 0
        while True:
            events = self._streaming.stream.remote(request)
            try:
                async for event in events:
                    if isinstance(event, RequestError):
                        raise event
                    key = (event.index, event.number if isinstance(event, PreviewImage) else -1)
                    if key not in sent:
                        sent.add(key)
                        yield event
                return
            except REPLICA_LOST_ERRORS:
                num_lost = _count_lost(num_lost)
            except BackPressureError:
                raise _queue_full() from None
            except DeploymentUnavailableError:
                raise _not_ready() from None
            except RequestError as error:
                num_lost = await _wait_or_raise(error, num_lost)
            finally:
                events.cancel()  # has no effect if it has ended

    async def _result(self, response: Any) -> Any:
        try:
            result = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            raise _queue_full() from None
        except DeploymentUnavailableError:
            raise _not_ready() from None
        if isinstance(result, RequestError):
            raise result
        return result


def _count_lost(num_lost: int) -> int:
    """Return the number of replicas lost over this request. Raises RequestError after the last attempt."""
    if num_lost + 1 == MAX_ATTEMPTS:
        raise RequestError("replica_lost", "two replicas were lost while they generated this request", retry_s=1)
    return num_lost + 1


async def _wait_or_raise(error: RequestError, num_lost: int) -> int:
    """Wait for another replica if this one is being replaced, else raise. The request's timeout limits the attempts."""
    if error.code == MODEL_BROKE:
        num_lost = _count_lost(num_lost)
    elif error.code != MODEL_BROKEN:
        raise error
    await asyncio.sleep(RETRY_PAUSE_S)
    return num_lost


def _queue_full() -> RequestError:
    return RequestError("rate_limit_exceeded", "too many requests are waiting; try again in a moment", retry_s=1)


def _not_ready() -> RequestError:
    return RequestError("not_ready", "no model is ready; try again in a moment", retry_s=5)
