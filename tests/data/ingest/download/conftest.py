"""A web server on loopback, for the tests of the download."""

from collections.abc import Iterator

import pytest
import web


@pytest.fixture
def pages() -> Iterator[tuple[dict[str, web.Page], str]]:
    """Return the server's pages by path, which a test fills in, and its address."""
    pages: dict[str, web.Page] = {}
    with web.serving(pages) as address:
        yield pages, address
