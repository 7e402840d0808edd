"""Drop reasons, the short names under which dropped rows of an ingest are counted: their meaning, and advice.

Reasons of the table, the download and the image are explained in EXPLANATIONS; a caption rule by its own docstring.
"""

import re
from http import HTTPStatus
from typing import NamedTuple

from emage.data.images import file_kinds
from emage.data.ingest.captions.caption_rules import RULES
from emage.data.ingest.download import statuses

NOTHING_TO_DO = "nothing to do"  # begins the advice if nothing is wrong on this side


class Explanation(NamedTuple):
    """The meaning of a drop reason, for users."""

    description: str  # a sentence
    advice: str  # what a person can do about such rows

    @property
    def is_hopeless(self) -> bool:
        """Return True if the user can do nothing about it."""
        return self.advice.startswith(NOTHING_TO_DO)


_SAME_SITES = f"{NOTHING_TO_DO}; if it is all of a site, select.block_hosts saves the requests"
_OPEN_ONE = (
    "open one of these URLs in a browser; if the image is whole there, keep a JPEG or PNG copy of it and list that"
)
EXPLANATIONS = {
    # Before the download
    "bad_row": Explanation(
        "A row of the table that cannot be read: too many or too few columns, quotes that are not closed, not a JSON "
        "object, a line of over 8 million characters, or a URL of over 8,192.",
        "check source.format and source.names, and the quotes of csv",
    ),
    "duplicate": Explanation("The same URL with the same caption came before.", f"{NOTHING_TO_DO}: the first is kept"),
    "same_content": Explanation(
        "Another pair has the same image, byte for byte, and was kept.",
        "shuffle.drop_same_content=false keeps all of them",
    ),
    "blocked_url": Explanation("The URL is on a block list.", "take it off the lists of select.block_urls to keep it"),
    "blocked_host": Explanation(
        "The host, or a domain above it, is on a block list.", "take it off the lists of select.block_hosts to keep it"
    ),
    "blocked_md5": Explanation(
        "The image's md5 sum is on a block list.", "take it off the lists of select.block_md5 to keep it"
    ),
    # Stored images
    "no_caption": Explanation(
        "An image without a caption.", "put its caption into a text file beside it, or into the table of captions"
    ),
    "no_image": Explanation(
        "A caption whose image is not there: the table of captions names a file that does not exist.",
        "look for the missing files, or for another spelling of their names",
    ),
    "failed_to_download": Explanation(
        "The earlier job of img2dataset, whose archives these are, could not download the image.",
        "ingest the URLs of such rows as a table: those that exist by now are downloaded",
    ),
    "failed_to_resize": Explanation(
        "The earlier job of img2dataset, whose archives these are, could not decode the image, or found it too small.",
        "ingest the URLs of such rows as a table: more formats are decoded here",
    ),
    "unreadable_file": Explanation(
        "The file exists, but cannot be read.", "check its permissions, on every node, and the disk"
    ),
    # The download
    "no_url": Explanation("The row has no URL.", "check the column that source.url names"),
    "bad_url": Explanation("The URL cannot be parsed.", "check the column that source.url names"),
    "bad_scheme": Explanation(
        "Neither http nor https: local files and inline data are never read.",
        "give the folder of such images as source.table; see docs/guides/own_images.md",
    ),
    "bad_port": Explanation(
        "The URL's port is not one of the web: neither 80 nor 443 nor above 1023, or one that browsers refuse.",
        "serve such images on a port of the web and list these URLs",
    ),
    "private_address": Explanation(
        "The host's address is not public: servers inside a network, and services of a cloud, are not connected to.",
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
    "too_many_redirects": Explanation("More redirects than an image needs.", _SAME_SITES),
    "bad_response": Explanation("The server's response is not HTTP, or its compressed body is damaged.", _SAME_SITES),
    "too_big": Explanation("More bytes than download.max_bytes.", "raise download.max_bytes to take such files"),
    "empty": Explanation("The server sent no bytes, or the file has none.", _SAME_SITES),
    "opted_out": Explanation(
        "The site's X-Robots-Tag header forbids to use the image, which is respected.",
        f"{NOTHING_TO_DO}, except to ask the owner",
    ),
    # The image
    "web_page": Explanation(
        "The bytes are a web page (HTML): a notice that the image is gone, a log-in, or a page around the image.",
        "open one of these URLs in a browser; if the page shows the image, list the image's own URL",
    ),
    "not_an_image": Explanation(
        f"The bytes are no image of a known format ({file_kinds.DECODED_NAMES}), and no web page.",
        "look at one of these files; if it is an image, keep a JPEG or PNG copy of it and list that",
    ),
    "too_small": Explanation(
        "The shorter side is under download.min_image_size.", "lower download.min_image_size to take such images"
    ),
    "too_many_pixels": Explanation(
        "More pixels than download.max_image_pixels.", "raise download.max_image_pixels to take such images"
    ),
    "too_many_scans": Explanation(
        "A JPEG of over a hundred scans, which is made to take minutes to decode.",
        "save such an image again as a usual JPEG and list that",
    ),
    "truncated": Explanation("The image's file ends too early.", _OPEN_ONE),
    "decode_error": Explanation(
        "The image's file is damaged, or a rare variant of its format that is not decoded.", _OPEN_ONE
    ),
    "wrong_size": Explanation(
        "The stored image is not of download.image_size.",
        "these shards come from elsewhere: download them again, or set the size that they have",
    ),
}
_FORMAT_ADVICE = "convert such files to JPEG or PNG and list these copies"
_FEWER_REQUESTS = "lower download.shards_in_flight or download.threads"
_LATER = "run the same command with one more of download.passes later"
_HTTP_STATUSES = {  # the common ones, as they are met here; the others are explained by their official name
    202: Explanation("The server has no image yet, or asks for proof that a browser sent the request.", _LATER),
    206: Explanation("The server sent a part of the file.", _SAME_SITES),
    404: Explanation("Link rot: the page does not exist any more.", NOTHING_TO_DO),
    410: Explanation("Link rot: the page was removed for good.", NOTHING_TO_DO),
    401: Explanation("The server requires a password.", _SAME_SITES),
    403: Explanation("The server rejects the request, often from everything that is not a browser.", _SAME_SITES),
    420: Explanation("Too many requests to one server.", _FEWER_REQUESTS),
    429: Explanation("Too many requests to one server.", _FEWER_REQUESTS),
}
_UNOFFICIAL_FAILURES = {  # that are in no standard: what has failed
    509: "it is over its limit of traffic",
    520: "the site behind Cloudflare gave no valid response",
    521: "the site behind Cloudflare is down",
    522: "the site behind Cloudflare did not answer in time",
    523: "the site behind Cloudflare cannot be reached",
    524: "the site behind Cloudflare did not answer in time",
    525: "no secure connection from Cloudflare to the site behind it",
    526: "the site behind Cloudflare has no valid certificate",
    529: "it is overloaded",
    530: "Cloudflare does not find the site behind it",
}
_CAPTION_ADVICE = "read the examples in the report; tokenize.caption_rules=false switches all caption rules off"
_CONDITION_ADVICE = "change source.where to keep such rows"


def explain(outcome: str, reason: str) -> Explanation:
    """Return the explanation of a drop reason.

    Args:
        outcome: "filtered", "failed" or "rejected", since "empty" is a drop reason of the last two.
        reason: The short name under which the rows are counted.

    Returns:
        The explanation; one without a description if the reason is unknown.
    """
    if outcome == "rejected" and reason in RULES:
        return Explanation((RULES[reason].__doc__ or "").splitlines()[0], _CAPTION_ADVICE)
    if status := re.fullmatch(r"http_(\d{3})", reason):
        return _explain_status(int(status[1]))
    if (kind := reason.removeprefix("format_")) in file_kinds.REFUSED and kind != reason:
        return Explanation(f"The file is {file_kinds.REFUSED[kind]}, which is not decoded.", _FORMAT_ADVICE)
    if outcome == "filtered" and re.search("[<>=]", reason):
        return Explanation("A condition of source.where.", _CONDITION_ADVICE)
    return EXPLANATIONS.get(reason, Explanation("", NOTHING_TO_DO))


def _explain_status(code: int) -> Explanation:
    if code in _HTTP_STATUSES:
        return _HTTP_STATUSES[code]
    if code in set(HTTPStatus):
        name = HTTPStatus(code).phrase
    else:
        name = _UNOFFICIAL_FAILURES.get(code, "a status that HTTP does not define")
    subject = "The server failed" if 500 <= code < 600 else "The server answered"
    return Explanation(f"{subject}: {name}.", _LATER if statuses.may_pass(f"http_{code}") else _SAME_SITES)
