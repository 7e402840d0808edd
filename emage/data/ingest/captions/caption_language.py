"""The rules on the language of a caption, for which the library eldc compares it with 60 languages.

Both rules keep what is in doubt: most captions are a few words, names and model numbers, in which every detector sees
languages that are not there. docs/guides/ingest.md has the comparison of detectors.
"""

import re
from collections.abc import Collection
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import eldc

from emage.data.ingest.captions.caption_words import LETTER, NOT_LATIN

ANY = "any"  # in place of a language: captions in all of them
ENGLISH = ("en",)
DETECTOR = f"eldc {version('eldc')}"  # a part of a tokenized shard's identity: another version may decide otherwise
# Languages that are written, at least by some, in another script than the Latin one.
_OTHER_SCRIPTS = "am ar be bg bn el fa gu he hi hy ja ka kn ko ku lo ml mr or pa ru sr ta te th uk ur zh"
OTHER_SCRIPTS = frozenset(_OTHER_SCRIPTS.split())

# A score is between 0 and 1. Captions that are English but for a name or a model number have smaller gaps.
MIN_GAP = 0.2
MAX_SCORES = 20  # of the languages that fit best: the most that eldc returns

LATIN_WORD = re.compile(r"(?<!\w)[A-Za-z][a-z]+(?!\w)")


@lru_cache(maxsize=1)
def _detector() -> Any:
    """Return this process's detector. Its database, 23 MB, is a part of the library's file."""
    eldc.init()
    detector = eldc.instance()  # the library's own functions share their settings with every other user
    detector.set_scores(MAX_SCORES)
    return detector


def wrong_script(text: str, languages: Collection[str] = ENGLISH) -> bool:
    """A fifth of the letters (a third next to five Latin words) are of another script than the languages'."""
    if text.isascii() or NOT_LATIN.search(text) is None or not OTHER_SCRIPTS.isdisjoint(languages):
        return False
    fraction = len(NOT_LATIN.findall(text)) / max(1, len(LETTER.findall(text)))
    return fraction > 1 / 3 or (fraction > 0.2 and len(LATIN_WORD.findall(text)) < 5)


def foreign_language(text: str, languages: Collection[str] = ENGLISH) -> bool:
    """Surely in another language than those of tokenize.language; two or three words are seldom sure."""
    if not text.isascii() and OTHER_SCRIPTS.isdisjoint(languages):
        text = NOT_LATIN.sub(" ", text)  # an English name next to its Chinese translation: wrong_script has decided
    found = _detector().detect_details(text)
    if not found.reliable or found.language in languages:
        return False
    wanted = max(found.scores.get(language, 0.0) for language in languages)
    return found.scores[found.language] - wanted >= MIN_GAP
