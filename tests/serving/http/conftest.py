"""The endpoint over real HTTP on 127.0.0.1, without Ray: the app, a queue and the shipped model in this process.

And Chromium on its page. The browser is a fixture of a module: while it is open, no other event loop can run in this
thread.
"""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from fake_pipe import FakePipe
from in_process import serving
from page_server import Listener, Scripted, Server, scripted
from pages import ARGUMENTS, CHROMIUM
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from emage.inference.pipeline import Emage
from emage.serving.http.app import Options, make_app
from emage.serving.http.auth import AccessOptions
from emage.serving.service import QueueLimits, Service


@pytest.fixture(scope="session")
def demo_pipe() -> Emage:
    return Emage.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="session")
def endpoint(demo_pipe: Emage) -> Iterator[str]:
    """The URL of an endpoint with the shipped model."""
    with serving(lambda: make_app(Service(demo_pipe, QueueLimits()), Options(timeout_s=30.0))) as url:
        yield url


@pytest.fixture(scope="module")
def pipe() -> FakePipe:
    """The model of one colour behind `url`."""
    return FakePipe()


@pytest.fixture(scope="module")
def url(pipe: FakePipe) -> Iterator[str]:
    """The URL of an endpoint with that model, with short time limits."""
    options = Options(timeout_s=1.5, access=AccessOptions(max_upload_bytes=200_000, body_timeout_s=1.0))
    with serving(lambda: make_app(Service(pipe, QueueLimits(max_queued=16)), options)) as address:
        yield address


# --- The page ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(demo_pipe: Emage) -> Iterator[Server]:
    """The endpoint with the shipped model, and the requests that it receives."""
    bodies: list[tuple[str, bytes]] = []
    with serving(lambda: Listener(make_app(Service(demo_pipe, QueueLimits()), Options(timeout_s=30.0)), bodies)) as url:
        yield Server(f"{url}/", bodies)


@pytest.fixture
def script() -> Iterator[Scripted]:
    with scripted() as script:
        yield script


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(15_000)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page that must not throw, log an error or a warning, or contact another server."""
    page = context.new_page()
    problems: list[str] = []
    requested: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None)
    page.on("request", lambda request: requested.append(request.url))
    yield page
    # The browser logs a rejected request whatever the page does with it.
    assert not [problem for problem in problems if not problem.startswith("Failed to load resource")]
    hosts = {urlsplit(url).netloc for url in requested if url.startswith("http")}
    assert hosts == {urlsplit(page.url).netloc}
