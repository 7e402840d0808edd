"""The endpoint over real HTTP on 127.0.0.1, without Ray: the app, a queue and the shipped model in this process."""

from collections.abc import Iterator

import pytest
from in_process import serving

from emage.pipeline import Emage
from emage.service import Limits, Service
from emage.web.app import Options, make_app


@pytest.fixture(scope="session")
def demo_pipe() -> Emage:
    return Emage.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="session")
def endpoint(demo_pipe: Emage) -> Iterator[str]:
    """The URL of an endpoint with the shipped model."""
    with serving(lambda: make_app(Service(demo_pipe, Limits()), Options(timeout_s=30.0))) as url:
        yield url
