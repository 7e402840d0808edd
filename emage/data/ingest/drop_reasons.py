"""Drop reasons, the short names under which dropped rows of an ingest are counted: their meaning, and advice.

Reasons of the table, the download and the image are explained in EXPLANATIONS; a caption rule by its own docstring.
"""

import re
from http import HTTPStatus
from typing import NamedTuple

from emage.data.ingest.captions.caption_rules import RULES


class Explanation(NamedTuple):
    """The meaning of a drop reason, for users."""

    description: str  # a sentence
    advice: str = ""  # against many such rows; empty: nothing is wrong on this side


EXPLANATIONS = {
    # Before the download
    "bad_row": Explanation(
        "A line of the table that cannot be read: too many or too few columns, or not a JSON object.",
        "check source.format and source.names",
    ),
    "duplicate": Explanation("The same URL with the same caption came before."),
    "same_content": Explanation("Another pair has the same image, byte for byte, and was kept."),
    "blocked_url": Explanation("The URL is on a block list."),
    "blocked_host": Explanation("The host, or a domain above it, is on a block list."),
    "blocked_md5": Explanation("The image's md5 sum is on a block list."),
    # The download
    "no_url": Explanation("The row has no URL.", "check the column that source.url names"),
    "bad_url": Explanation("The URL cannot be parsed.", "check the column that source.url names"),
    "bad_scheme": Explanation("Neither http nor https: local files and inline data are never read."),
    "private_address": Explanation(
        "The host's address is private: servers inside a network are not connected to.",
        "download.allow_private_hosts=true if the hosts are meant to be private",
    ),
    "dns_error": Explanation(
        "The host's name has no address: the site is gone, or the DNS resolver could not answer.",
        "the resolver may be down or overloaded; run one on every node, or lower download.threads, and try again",
    ),
    "connection_error": Explanation(
        "The server refused the connection or closed it early.",
        "the network may be down or saturated; lower download.threads and try again",
    ),
    "tls_error": Explanation(
        "No secure connection: the certificate is out of date or of another host.",
        "check that the nodes' clocks and certificates are up to date",
    ),
    "timeout": Explanation(
        "Not finished by the deadline of the whole request.",
        "the network may be saturated; lower download.threads or raise download.timeout_s",
    ),
    "too_many_redirects": Explanation("More redirects than an image needs."),
    "bad_response": Explanation("The server's response is not HTTP."),
    "too_big": Explanation("More bytes than download.max_bytes."),
    "empty": Explanation("The server sent no bytes."),
    "opted_out": Explanation("The server's X-Robots-Tag forbids training on its images, which is respected."),
    # The image
    "not_an_image": Explanation("The bytes are not an image, most often a web page instead of a missing image."),
    "too_small": Explanation("The shorter side is under download.min_image_size."),
    "too_many_pixels": Explanation("More pixels than download.max_image_pixels."),
    "too_many_scans": Explanation("A JPEG of over a hundred scans, which is made to take minutes to decode."),
    "truncated": Explanation("The image's file ends too early."),
    "decode_error": Explanation("The image's file is damaged."),
    "wrong_size": Explanation("The stored image is not of download.image_size.", "these shards come from elsewhere"),
}
_HTTP_STATUSES = {  # the common ones, as they are met here; the others are explained by their official name
    404: Explanation("Link rot: the page does not exist any more."),
    410: Explanation("Link rot: the page was removed for good."),
    401: Explanation("The server requires a password."),
    403: Explanation("The server rejects the request, often from everything that is not a browser."),
    429: Explanation("Too many requests to one server.", "lower download.shards_in_flight or download.threads"),
}


def explain(outcome: str, reason: str) -> Explanation:
    """Return the explanation of a drop reason.

    Args:
        outcome: "filtered", "failed" or "rejected", since "empty" is a drop reason of the last two.
        reason: The short name under which the rows are counted.

    Returns:
        The explanation; an empty one if the reason is unknown.
    """
    if outcome == "rejected" and reason in RULES:
        return Explanation((RULES[reason].__doc__ or "").splitlines()[0])
    if status := re.fullmatch(r"http_(\d{3})", reason):
        return _explain_status(int(status[1]))
    if outcome == "filtered" and re.search("[<>=]", reason):
        return Explanation("A condition of source.where.")
    return EXPLANATIONS.get(reason, Explanation(""))


def _explain_status(code: int) -> Explanation:
    if code in _HTTP_STATUSES:
        return _HTTP_STATUSES[code]
    name = HTTPStatus(code).phrase if code in set(HTTPStatus) else "a status that HTTP does not define"
    return Explanation(f"The server failed: {name}." if 500 <= code < 600 else f"The server answered: {name}.")
