"""A web server for the tests of the download."""

import pytest
import web


@pytest.fixture
def site():
    """Yield the pages of a server on this machine, which a test fills, and its address."""
    pages: dict[str, web.Page] = {}
    with web.serving(pages) as address:
        yield pages, address
