"""A web server on loopback, for the tests of the download."""

from collections.abc import Iterator

import pytest
import web


@pytest.fixture
def pages() -> Iterator[tuple[dict[str, web.Page], str]]:
    """The server's pages by path, to be filled in by a test, and its address."""
    pages: dict[str, web.Page] = {}
    with web.serving(pages) as address:
        yield pages, address
