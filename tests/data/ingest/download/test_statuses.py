"""Statuses: which answers hold an image, and which failures may pass."""

from email.message import Message

import pytest

from emage.data.ingest.download import statuses
from emage.data.ingest.download.fetch_error import FetchError


def headers(content_range: str) -> Message:
    message = Message()
    message["Content-Range"] = content_range
    return message


def test_an_image_comes_with_these():
    assert [statuses.length_of_whole(status, Message()) for status in (200, 201, 203)] == [None] * 3
    assert statuses.length_of_whole(206, headers("bytes 0-9/10")) == 10
    assert statuses.length_of_whole(206, headers("Bytes  0-0/1 ")) == 1


@pytest.mark.parametrize("content_range", ["", "bytes 0-8/10", "bytes 1-9/10", "bytes 0-9/*", "0-9/10", "bytes */10"])
def test_a_part_is_not_the_whole(content_range):
    with pytest.raises(FetchError, match="http_206"):
        statuses.length_of_whole(206, headers(content_range))


def test_what_may_pass():
    reasons = [f"http_{status}" for status in range(100, 1000)]
    passing = {int(reason[5:]) for reason in reasons if statuses.may_pass(reason)}
    assert {status for status in passing if status < 500} == {202, 408, 420, 421, 423, 425, 429, 449, 460, 499}
    assert passing >= {500, 502, 503, 504, 507, 509, *range(520, 526), 527, 529, 530, 598, 599}
    assert passing.isdisjoint({200, 204, 206, 301, 304, 401, 403, 404, 410, 451, 501, 505, 526, 600, 999})
    assert [name for name in ("timeout", "connection_error", "dns_error", "too_big", "http_5030", "http_") if
            statuses.may_pass(name)] == ["timeout", "connection_error", "dns_error"]  # fmt: skip
