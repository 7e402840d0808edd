"""The replicas that draw, as one backend: an order that a lost replica had is given to another one.

Drawing twice does no harm, since an image follows from its seed. An order is begun twice at most: one that ends the
replica which draws it must not end them all.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from ray.exceptions import NodeDiedError, ObjectLostError, RayActorError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from emage.serving.request import BROKE, BROKEN, GeneratedImage, Order, Preview, Refusal

LOST = (RayActorError, ObjectLostError, NodeDiedError, WorkerCrashedError)
ATTEMPTS = 2
PAUSE_S = 0.5  # before a replica that is being replaced is asked again


class Replicas:
    """A Backend of emage.serving.http.app over the handle of the Model deployment."""

    def __init__(self, model: DeploymentHandle):
        self._model: Any = model
        self._streaming: Any = model.options(stream=True)

    async def describe(self) -> dict[str, Any]:
        try:
            return await self._ask(self._model.describe.remote())
        except LOST:
            raise _absent() from None

    async def draw(self, order: Order) -> list[GeneratedImage]:
        lost = 0
        while True:
            try:
                return await self._ask(self._model.draw.remote(order))
            except LOST:
                lost = _count(lost)
            except Refusal as refusal:
                lost = await _wait_or_raise(refusal, lost)

    async def stream(self, order: Order) -> AsyncGenerator[Preview | GeneratedImage, None]:
        seen: set[tuple[int, int]] = set()  # what went out before a replica was lost is not sent again
        lost = 0
        while True:
            events = self._streaming.stream.remote(order)
            try:
                async for event in events:
                    if isinstance(event, Refusal):
                        raise event
                    key = (event.index, event.number if isinstance(event, Preview) else -1)
                    if key not in seen:
                        seen.add(key)
                        yield event
                return
            except LOST:
                lost = _count(lost)
            except BackPressureError:
                raise _full() from None
            except DeploymentUnavailableError:
                raise _absent() from None
            except Refusal as refusal:
                lost = await _wait_or_raise(refusal, lost)
            finally:
                events.cancel()  # does nothing to what has ended

    async def _ask(self, response: Any) -> Any:
        try:
            result = await response
        except asyncio.CancelledError:
            response.cancel()
            raise
        except BackPressureError:
            raise _full() from None
        except DeploymentUnavailableError:
            raise _absent() from None
        if isinstance(result, Refusal):
            raise result
        return result


def _count(lost: int) -> int:
    """One replica more was lost while it drew. Raises Refusal after the last attempt."""
    if lost + 1 == ATTEMPTS:
        raise Refusal(500, "the replica that drew this was lost, twice", code="replica_lost")
    return lost + 1


async def _wait_or_raise(refusal: Refusal, lost: int) -> int:
    """Until another replica may answer, where this one is about to be replaced. The request's time limits it."""
    if refusal.code == BROKE:
        lost = _count(lost)
    elif refusal.code != BROKEN:
        raise refusal
    await asyncio.sleep(PAUSE_S)
    return lost


def _full() -> Refusal:
    return Refusal(429, "too many requests are waiting; try again in a moment", code="rate_limit_exceeded", retry_s=1)


def _absent() -> Refusal:
    return Refusal(503, "no model is ready; try again in a moment", code="not_ready", retry_s=5)
