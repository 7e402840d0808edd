"""Where the bytes of a row's image come from: a request to the web, or an input of stored images.

A row with an address is of a stored image, and its data set says of which input. Only the select stage writes
addresses; a URL of a table is always fetched from the web, whatever it looks like.
"""

import time
from collections.abc import Callable, Sequence
from email.message import Message

import pyarrow as pa

from emage.config import DownloadConfig, SourceConfig
from emage.data.ingest.download import fetch, robots_tag
from emage.data.ingest.download.fetch_error import FetchError
from emage.data.ingest.download.memory_budget import SMALL_BYTES, Share
from emage.data.ingest.sources import kinds
from emage.utils import storage
from emage.version import __version__

ReadRow = Callable[[int, str | None, Share], bytes]  # (index of the row, URL, memory) -> bytes; raises FetchError
WAIT_S = 3_600.0  # for memory: other rows of the shard have it, and give it back


def make_reader(config: DownloadConfig, rows: pa.Table, inputs: Sequence[SourceConfig]) -> ReadRow:
    """Return the function that reads the image of a row of a shard.

    Args:
        config: The settings.
        rows: Of the shard, with the columns `dataset` and, if images are stored, `address`.
        inputs: Of the ingest, resolved.

    Returns:
        A function that threads may call at the same time. It raises FetchError with the drop reason, and another
        exception if the storage of an input fails: unlike the web, that is expected to work.
    """
    from_web = _make_web_reader(config)
    if "address" not in rows.schema.names:  # of a retry round, or of an earlier version
        return lambda _, url, memory: from_web(url, memory)
    addresses, datasets = rows["address"].to_pylist(), rows["dataset"].to_pylist()
    of_input = {source.dataset: source for source in inputs}
    stored = {name for name, address in zip(datasets, addresses, strict=True) if address is not None}
    openers = {name: kinds.open_images(of_input[name]) for name in stored}

    def read(index: int, url: str | None, memory: Share) -> bytes:
        address = addresses[index]
        if address is None:
            return from_web(url, memory)

        def reserve(num_bytes: int) -> None:
            if num_bytes > config.max_bytes:
                raise FetchError("too_big")
            if num_bytes > SMALL_BYTES:
                memory.take(num_bytes, time.monotonic() + WAIT_S)

        try:
            return openers[datasets[index]](address, reserve)
        except FetchError:
            memory.keep(0)
            raise
        except (OSError, pa.ArrowException) as error:
            with storage.explain_errors(of_input[datasets[index]].table):
                raise error

    return read


def _make_web_reader(config: DownloadConfig) -> Callable[[str | None, Share], bytes]:
    limits = fetch.FetchLimits(
        timeout_s=config.timeout_s,
        max_bytes=config.max_bytes,
        allow_private_hosts=config.allow_private_hosts,
        user_agent=f"Mozilla/5.0 (compatible; {config.user_agent_token}/{__version__})",
    )

    def is_opted_out(headers: Message) -> bool:
        return robots_tag.is_opted_out(headers, config.user_agent_token)

    return lambda url, memory: fetch.fetch_with_retries(url, limits, is_opted_out, config.retries, memory)
