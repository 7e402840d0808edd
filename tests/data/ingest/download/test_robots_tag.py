"""Opt-out headers in every form that search engines document, and in forms that servers send."""

from email.message import Message

import pytest

from emage.data.ingest.download import robots_tag


def is_opted_out(*headers: str, robot: str = "emage") -> bool:
    message = Message()
    for header in headers:
        message["X-Robots-Tag"] = header
    return robots_tag.is_opted_out(message, robot)


@pytest.mark.parametrize(
    "header",
    [
        *("noai", "noimageai", "noindex", "noimageindex", "none", "NoAI", " noai ", '"noai"'),
        *("nofollow, noai", "noai,nofollow", "noai,", ",noai", "nofollow noai", "nofollow; noai", "all, noindex"),
        # Rules with a value are no names of robots, also those that nobody knows yet.
        *("max-image-preview:large, noai", "noai, max-image-preview:large", "max-snippet: -1, noindex"),
        *("max-snippet:20, max-video-preview:-1, max-image-preview:none, noimageai", "max-audio-preview:none, noai"),
        "preview:large, noai",
        # Dates have commas and colons.
        *("unavailable_after: 1-Jan-3000 00:00:00 EST, noai", "noai, unavailable_after: 1 Jan 2999 00:00:00 GMT"),
        *("unavailable_after: Tuesday, 01-Jan-30 15:00:00 UTC, noindex", "unavailable_after: never, noai"),
        "unavailable_after: 2999-01-01T10:30:00+01:00, noai",
        # From the date on.
        *("unavailable_after: 25 Jun 2010 15:00:00 PST", "unavailable_after: Friday, 25-Jun-10 15:00:00 UTC"),
        *("unavailable_after: Fri, 25 Jun 2010 15:00:00 GMT", "unavailable_after:2010-06-25T15:00:00Z, nofollow"),
        *("unavailable_after: 2010-06-25", "emage: unavailable_after: 25 Jun 2010 15:00:00 PST"),
        # All robots, or this one, in any case and version.
        *("*: noai", "*:noindex, nofollow", "robots: noai", "emage: noai", "EMAGE : NOAI", "emage/2.1: nofollow, none"),
        *("googlebot: nofollow, emage: noai", "googlebot: noindex, *: noai", "noai, googlebot: all"),
        *("emage: max-snippet:3, noai", "googlebot: emage: noai", "*: max-image-preview:large, noai"),
    ],
)
def test_opt_outs(header):
    assert is_opted_out(header)
    assert is_opted_out("nofollow", header, "max-snippet:-1")
    assert is_opted_out("googlebot: nofollow", header)  # a robot's name is for its own header alone


@pytest.mark.parametrize(
    "header",
    [
        *("", "all", "index, follow", "nofollow, noarchive, nosnippet", "noaix", "max-image-preview:none"),
        *("max-snippet:-1, max-image-preview:large, max-video-preview:-1", "notranslate; nocache"),
        *("googlebot: noindex", "googlebot: nofollow, noai", "otherbot: noindex, nofollow, googlebot: none"),
        *("googlebot: max-image-preview:large, noai", "googlebot: unavailable_after: 25 Jun 2010 15:00:00 PST, noai"),
        *("emage: all, googlebot: noai", "emagebot: noai", "googlebot: bingbot: noai"),
        *("unavailable_after: 1-Jan-3000 00:00:00 EST", "unavailable_after: Sat, 01 Jan 2999 00:00:00 GMT"),
        *("unavailable_after: Wednesday, 01-Jan-49 15:00:00 UTC", "unavailable_after: soon", "unavailable_after:"),
        "unavailable_after: 2999-06-25T15:00:00+02:00, max-snippet:10",
    ],
)
def test_no_opt_outs(header):
    assert not is_opted_out(header)


def test_the_robot_is_the_one_of_the_user_agent():
    assert is_opted_out("mybot: noai", robot="MyBot/1.0")
    assert not is_opted_out("emage: noai", robot="MyBot")
    assert not is_opted_out()
