"""The interfaces that the HTTP API needs: one generates the images, one records the requests."""

from collections.abc import AsyncGenerator
from typing import Any, Protocol

from emage.serving.request import GeneratedImage, GenerationRequest, PreviewImage


class Backend(Protocol):
    """Generates images: emage.serving.service.Service, or replicas of it. Its methods may raise RequestError."""

    async def generate(self, request: GenerationRequest) -> list[GeneratedImage]: ...
    def stream(self, request: GenerationRequest) -> AsyncGenerator[PreviewImage | GeneratedImage, None]: ...
    async def describe(self) -> dict[str, Any]: ...


class MetricsSink(Protocol):
    """Records the requests, and returns the metrics of the whole endpoint in Prometheus' text format."""

    def record_request(self, route: str, status: int, seconds: float) -> None: ...
    async def text(self) -> str: ...
