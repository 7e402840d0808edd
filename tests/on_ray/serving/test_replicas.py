"""Requests whose replicas are lost, with replicas that a test scripts; no cluster."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from ray.exceptions import RayActorError

from emage.on_ray.serving import replicas
from emage.on_ray.serving.replicas import Replicas
from emage.serving.request import GeneratedImage, GenerationRequest, PreviewImage, RequestError, TokenCounts

REQUEST = GenerationRequest("a")
IMAGE = GeneratedImage(0, 0, 2, "8x8", b"", "png", False, TokenCounts(3, 0, 4))
PREVIEW = PreviewImage(0, 0, 0, 1, 2, 0.5, "8x8", b"", "png")


class Handle:
    """A deployment's handle; each call of a method takes the next of the scripted outcomes."""

    def __init__(self, *outcomes: Any):
        self.outcomes = list(outcomes)
        self.generate = self.describe = self.stream = self

    def options(self, stream: bool) -> "Handle":
        return self

    def remote(self, *_: Any) -> "Response":
        return Response(self.outcomes.pop(0))


class Response:
    def __init__(self, outcome: Any):
        self.outcome = outcome

    def __await__(self) -> Any:
        if isinstance(self.outcome, RayActorError):
            raise self.outcome
        return self.outcome
        yield

    async def __aiter__(self) -> AsyncIterator[Any]:
        for event in self.outcome:
            if isinstance(event, RayActorError):
                raise event
            yield event

    def cancel(self) -> None:
        """Nothing to cancel."""


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "RETRY_PAUSE_S", 0.0)


def test_a_request_of_a_lost_replica_goes_to_another() -> None:
    assert asyncio.run(Replicas(Handle(RayActorError(), [IMAGE])).generate(REQUEST)) == [IMAGE]  # type: ignore[arg-type]


def test_events_that_were_sent_are_not_sent_again() -> None:
    async def events() -> list[Any]:
        handle: Any = Handle([PREVIEW, RayActorError()], [PREVIEW, IMAGE])
        return [event async for event in Replicas(handle).stream(REQUEST)]

    assert asyncio.run(events()) == [PREVIEW, IMAGE]


@pytest.mark.parametrize("lost", [RayActorError(), RequestError("model_broke", "the model has failed")])
def test_two_lost_replicas_are_a_503(lost: Exception) -> None:
    with pytest.raises(RequestError) as caught:
        asyncio.run(Replicas(Handle(lost, lost)).generate(REQUEST))  # type: ignore[arg-type]
    assert (caught.value.status, caught.value.code, caught.value.retry_s) == (503, "replica_lost", 1)


def test_a_model_that_broke_before_the_request_does_not_count_as_lost() -> None:
    broken = RequestError("model_broken", "the model has failed")
    assert asyncio.run(Replicas(Handle(broken, broken, broken, [IMAGE])).generate(REQUEST)) == [IMAGE]  # type: ignore[arg-type]
