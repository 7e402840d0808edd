"""Downloads of one URL, for tests: short limits, and the drop reason of a URL without an image."""

from email.message import Message

import pytest

from emage.data.ingest.download import fetch
from emage.data.ingest.download.fetch import FetchLimits
from emage.data.ingest.download.fetch_error import FetchError

LIMITS = FetchLimits(timeout_s=0.5, max_bytes=100_000, allow_private_hosts=True)


def never_opted_out(headers: Message) -> bool:
    return False


def drop_reason(url: str | None, limits: FetchLimits = LIMITS) -> str:
    with pytest.raises(FetchError) as error:
        fetch.fetch(url, limits, never_opted_out)
    return error.value.reason
