"""Why rows of an ingest are lost, by the short names under which they are counted: what it means, what to do.

Causes of the fetch and of the image stand in CAUSES; what a caption rule rejects, the rule's docstring says.
"""

import re
from http import HTTPStatus
from typing import NamedTuple

from emage.data.ingest.captions.caption_rules import RULES


class Cause(NamedTuple):
    says: str  # what happened
    advice: str = ""  # what to do where it happens often; empty: nothing is wrong here


CAUSES = {
    # Before the download
    "bad_row": Cause(
        "A line of the table that cannot be read: too many or too few columns, or no JSON object.",
        "look at source.format and source.names",
    ),
    "duplicate": Cause("The same URL with the same caption came before."),
    "same_content": Cause("Another pair has the same image, byte for byte, and was kept."),
    "blocked_url": Cause("The URL is on a block-list."),
    "blocked_host": Cause("The host, or a domain above it, is on a block-list."),
    "blocked_md5": Cause("The image's md5 sum is on a block-list."),
    # The download
    "no_url": Cause("The row has no URL.", "look at the column that source.url names"),
    "bad_url": Cause("The URL cannot be read as one.", "look at the column that source.url names"),
    "bad_scheme": Cause("Neither http nor https: local files and inline data are never read."),
    "private_address": Cause(
        "The host's address is private: servers inside a network are not asked.",
        "download.allow_private_hosts=true if the hosts are meant to be private",
    ),
    "dns_error": Cause(
        "The host's name has no address: the site is gone, or the resolver could not answer.",
        "the resolver may be down or overloaded; run one on every node, or lower download.threads, and try again",
    ),
    "connection_error": Cause(
        "The server refused the connection or broke it off.",
        "the network may be down or full; lower download.threads and try again",
    ),
    "tls_error": Cause(
        "No secure connection: the certificate is out of date or of another host.",
        "look whether the nodes' clocks and certificates are right",
    ),
    "timeout": Cause(
        "Not done by the deadline of the whole request.",
        "the network may be full; lower download.threads or raise download.timeout_s",
    ),
    "too_many_redirects": Cause("More redirects than an image needs."),
    "bad_response": Cause("The server's answer is not HTTP."),
    "too_big": Cause("More bytes than download.max_bytes."),
    "empty": Cause("The server sent no bytes."),
    "opted_out": Cause("The server's X-Robots-Tag asks not to train on its images, and that is respected."),
    # The image
    "not_an_image": Cause("The bytes are no image, most often a web page saying that it is gone."),
    "too_small": Cause("The shorter side is under download.min_image_size."),
    "too_many_pixels": Cause("More pixels than download.max_image_pixels."),
    "too_many_scans": Cause("A JPEG of over a hundred scans, which takes minutes to decode and is made for that."),
    "truncated": Cause("The image's file ends too early."),
    "decode_error": Cause("The image's file is damaged."),
    "wrong_size": Cause("The stored image does not have download.image_size.", "these shards come from elsewhere"),
}
_HTTP = {  # what the common ones mean here; the others by their official name
    404: Cause("Link rot: the page is not there any more."),
    410: Cause("Link rot: the page was taken away for good."),
    401: Cause("The server wants a password."),
    403: Cause("The server refuses, often everyone who is no browser."),
    429: Cause("Too many requests to one server.", "lower download.shards_in_flight or download.threads"),
}


def explain(outcome: str, cause: str) -> Cause:
    """What a cause of an outcome ("filtered", "failed", "rejected") means. An unknown one says nothing."""
    if outcome == "rejected" and cause in RULES:
        return Cause((RULES[cause].__doc__ or "").splitlines()[0])
    if status := re.fullmatch(r"http_(\d{3})", cause):
        return _status(int(status[1]))
    if outcome == "filtered" and re.search("[<>=]", cause):
        return Cause("A condition of source.where.")
    return CAUSES.get(cause, Cause(""))


def _status(code: int) -> Cause:
    if code in _HTTP:
        return _HTTP[code]
    name = HTTPStatus(code).phrase if code in set(HTTPStatus) else "a status that HTTP does not define"
    return Cause(f"The server is in trouble: {name}." if 500 <= code < 600 else f"The server answered: {name}.")
