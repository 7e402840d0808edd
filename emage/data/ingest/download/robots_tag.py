"""Opt-outs: whether the header X-Robots-Tag of a response forbids training on its image.

The header is a list of rules, as the search engines document it:

    X-Robots-Tag: noindex, max-image-preview:large
    X-Robots-Tag: unavailable_after: Friday, 25-Jun-10 15:00:00 UTC
    X-Robots-Tag: googlebot: nofollow, otherbot: noindex, nofollow

A name with a colon in front of a rule is that of a robot, which the following rules of the same header are for; rules
before it are for all. What is in doubt is read as an opt-out.
"""

import datetime
import email.utils
import re
from collections.abc import Iterator
from email.message import Message

OPT_OUTS = {"noai", "noimageai", "noindex", "noimageindex", "none"}  # none: noindex and nofollow
UNAVAILABLE_AFTER = "unavailable_after"  # from this date on the same as noindex
RULES_WITH_VALUE = {UNAVAILABLE_AFTER, "max-snippet", "max-image-preview", "max-video-preview"}
OTHER_RULES = {
    *("all", "index", "follow", "archive", "snippet", "nofollow", "noarchive", "nocache", "nosnippet", "notranslate"),
    *("indexifembedded", "noodp", "noydir", "noyaca", "nositelinkssearchbox", "nopagereadaloud"),
}
RULES = OPT_OUTS | RULES_WITH_VALUE | OTHER_RULES
EVERY_ROBOT = {"*", "robots"}
SEPARATOR = re.compile("[,;]")
IGNORED = str.maketrans("", "", "\"'")  # quotes, which some servers send


def is_opted_out(headers: Message, robot: str) -> bool:
    """Return True if an X-Robots-Tag of the headers forbids a robot to use the response.

    Args:
        headers: Of one response; all its X-Robots-Tag headers count.
        robot: The name of our robot, in any case.
    """
    ours = {*EVERY_ROBOT, _name(robot)}
    for header in headers.get_all("X-Robots-Tag", []):
        for robots, rule, value in _rules(str(header)):
            if (not robots or robots & ours) and _forbids(rule, value):
                return True
    return False


def _rules(header: str) -> Iterator[tuple[set[str], str, str]]:
    """Yield (names of robots, none if it is for all; rule; value) for each rule of a header, in lower case."""
    robots: set[str] = set()
    parts = SEPARATOR.split(header.translate(IGNORED).lower())
    for part, following in zip(parts, [*parts[1:], ""], strict=True):
        words = [word.strip() for word in part.split(":")]
        first = next((index for index, word in enumerate(words) if _is_rule(word)), 0)
        if first:
            robots, words = {_name(word) for word in words[:first]}, words[first:]
        rule, value = words[0], ":".join(words[1:])
        if rule == UNAVAILABLE_AFTER and not any(map(str.isdigit, value)):
            value = f"{value}, {following}"  # a weekday: the date is behind the comma
        for word in rule.split():  # several, if the commas are missing
            yield robots, word, value


def _is_rule(text: str) -> bool:
    """Return True for a rule, and for what looks like one more of max-snippet's kind."""
    return text.startswith("max-") or not RULES.isdisjoint(text.split()[:1])


def _name(robot: str) -> str:
    """Return a robot's name without its version, in lower case."""
    return robot.partition("/")[0].strip().lower()


def _forbids(rule: str, value: str) -> bool:
    if rule != UNAVAILABLE_AFTER:
        return rule in OPT_OUTS
    date = _date(value)
    return date is not None and date <= datetime.datetime.now(datetime.UTC)


def _date(text: str) -> datetime.datetime | None:
    """Return a date of RFC 822, RFC 850 or ISO 8601, or None. One without a time zone is read as UTC."""
    for read in (datetime.datetime.fromisoformat, email.utils.parsedate_to_datetime):
        try:
            date = read(text.strip().upper())
        except (ValueError, IndexError, OverflowError):
            continue
        return date if date.tzinfo else date.replace(tzinfo=datetime.UTC)
    return None
