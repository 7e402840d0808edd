"""HTTP statuses: which answers hold an image, which refer to another URL, and which failures may pass."""

import re
from email.message import Message

from emage.data.ingest.download.fetch_error import FetchError

REDIRECTS = (301, 302, 303, 307, 308)
WITH_IMAGE = (200, 201, 203)  # and 206, if its range is the whole file
WHOLE_RANGE = re.compile(r"\s*bytes\s+0-(\d+)/(\d+)\s*", re.IGNORECASE)

RETRIED_AT_ONCE = ("timeout", "connection_error", "dns_error")
# Below 500: not ready yet (202), too slow (408), the wrong connection (421), locked (423), too early (425), too many
# requests (429; 420 and 449 are what Twitter and Microsoft say for it), closed by a proxy in between (460, 499).
PASSING = (202, 408, 420, 421, 423, 425, 429, 449, 460, 499)
# From 500 on a server has a fault that it may mend, also where the number is in no standard: 509 (over its traffic
# limit), 520 to 524, 527 and 530 (Cloudflare does not reach the server), 529 (overloaded), 598 and 599 (a proxy's
# timeout). These say instead that the server will not answer such a request, or is set up wrongly: not implemented,
# HTTP version, negotiation, loop, extension, certificate of the server behind Cloudflare.
LASTING = (501, 505, 506, 508, 510, 526)


def length_of_whole(status: int, headers: Message) -> int | None:
    """Return the length in bytes that a response states for its whole file, or None if it states none.

    No range was asked for, but some servers answer with one: it counts if it is the whole file.

    Args:
        status: The status of the final response.
        headers: Its headers.

    Raises:
        FetchError: http_NNN, if the response has no image, or only a part of one.
    """
    if status in WITH_IMAGE:
        return None
    match = WHOLE_RANGE.fullmatch(headers.get("Content-Range", "")) if status == 206 else None
    if match is None or int(match[1]) + 1 != int(match[2]):
        raise FetchError(f"http_{status}")
    return int(match[2])


def may_pass(reason: str) -> bool:
    """Return True if a failure may be gone hours later, by its drop reason: it is tried again in a retry round."""
    if match := re.fullmatch(r"http_(\d{3})", reason):
        status = int(match[1])
        return status in PASSING or (500 <= status <= 599 and status not in LASTING)
    return reason in RETRIED_AT_ONCE
