"""The limit on bytes in memory: who waits, who is next, and that large bodies take from it and small ones do not."""

import gzip
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import web
from one_download import never_opted_out

from emage.data.ingest.download import fetch
from emage.data.ingest.download.fetch import FetchLimits
from emage.data.ingest.download.fetch_error import FetchError
from emage.data.ingest.download.memory_budget import SMALL_BYTES, MemoryBudget, Share

LIMITS = FetchLimits(timeout_s=5, max_bytes=4_000_000, allow_private_hosts=True)


def soon() -> float:
    return time.monotonic() + 0.1


def test_a_share_takes_once_and_gives_back():
    budget = MemoryBudget(10)
    share = Share(budget)
    share.take(6, soon())
    share.take(6, soon())
    assert budget.free == 4
    share.keep(2)
    share.keep(5)  # it has no more than 2
    assert (budget.free, share.num_bytes) == (8, 2)
    share.keep(0)
    share.keep(0)
    assert budget.free == 10


def test_waiting_ends_at_the_deadline():
    budget = MemoryBudget(10)
    budget.take(6, soon())
    with pytest.raises(TimeoutError):
        budget.take(5, soon())
    budget.take(4, soon())  # the one that gave up is not in the way
    assert budget.free == 0


def test_a_large_piece_has_its_turn():
    budget = MemoryBudget(10)
    budget.take(6, soon())
    order: list[int] = []

    def take(size: int) -> None:
        budget.take(size, time.monotonic() + 30)
        order.append(size)

    with ThreadPoolExecutor() as threads:
        for size in (9, 1):  # the small one would fit at once, but came later
            threads.submit(take, size)
            while len(budget._waiting) < (2 if size == 1 else 1):
                time.sleep(0.01)
        assert order == []
        budget.give_back(6)
    assert order == [9, 1]


def test_large_bodies_take_what_they_keep(pages):
    pages, address = pages
    large, small, head = bytes(3_000_000), bytes(SMALL_BYTES), b"HTTP/1.1 200 OK\r\n"
    pages |= {
        "/small": small,
        "/large": large,
        "/no-length": lambda handler: handler.wfile.write(head + b"\r\n" + large),
        "/gzip": web.answer(gzip.compress(large), Content_Encoding="gzip"),
        "/too-big": lambda handler: handler.wfile.write(head + b"\r\n" + bytes(5_000_000)),
        "/short": lambda handler: handler.wfile.write(head + b"Content-Length: 3000000\r\n\r\n" + large[:-1]),
    }
    budget = MemoryBudget(2 * LIMITS.max_bytes)
    for path, kept in {"/small": 0, "/large": 3_000_000, "/no-length": 3_000_000, "/gzip": 3_000_000}.items():
        share = Share(budget)
        assert set(fetch.fetch(address + path, LIMITS, never_opted_out, share)) == {0}
        assert budget.free == budget.num_bytes - kept
        share.keep(0)
    for path in ("/too-big", "/short"):
        with pytest.raises(FetchError):
            fetch.fetch_with_retries(address + path, LIMITS, never_opted_out, 1, Share(budget))
        assert budget.free == budget.num_bytes


def test_no_more_is_in_memory_than_the_budget_has(pages):
    """Twenty downloads of 3 MB at once, with a budget for two of them: all arrive, two at a time."""
    pages, address = pages
    pages["/a"] = bytes(3_000_000)
    budget = MemoryBudget(2 * LIMITS.max_bytes)
    least, lock = [budget.num_bytes], threading.Lock()

    def download(_: int) -> int:
        share = Share(budget)
        data = fetch.fetch(address + "/a", FetchLimits(60, 4_000_000, True), never_opted_out, share)
        with lock:
            least[0] = min(least[0], budget.free)
        time.sleep(0.01)  # decoding
        share.keep(0)
        return len(data)

    with ThreadPoolExecutor(20) as threads:
        assert list(threads.map(download, range(20))) == [3_000_000] * 20
    assert least[0] == budget.num_bytes - 6_000_000 and budget.free == budget.num_bytes
