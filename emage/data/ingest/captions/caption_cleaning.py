"""Cleaning of captions: alt-text from the web -> plain text. Rules and training see the result of `normalise`."""

import html
import re
import unicodedata
from html.entities import html5

from ftfy import fix_encoding
from ftfy.badness import is_bad

INLINE_TAGS = "a abbr b big cite code em font i mark q s small span strike strong style sub sup tt u wbr"
BLOCK_TAGS = """article br button center caption dd del div dl dt fieldset figcaption figure footer form h1 h2 h3 h4
    h5 h6 header hr iframe img input ins label legend li link meta nobr noscript object ol option p param pre script
    section select source svg table tbody td textarea tfoot th thead title tr ul video"""
TAG_NAMES = "|".join(sorted((INLINE_TAGS + " " + BLOCK_TAGS).split(), key=len, reverse=True))

TAG = re.compile(rf"</?({TAG_NAMES})(?=[\s/>])[^<>]*>|<!--.*?(?:-->|\Z)|<!\[CDATA\[", re.IGNORECASE | re.DOTALL)
SCRIPT = re.compile(r"<(script|style)\b[^<>]*>.*?(</\1\s*>|\Z)", re.IGNORECASE | re.DOTALL)
PERSON = re.compile(r"<PERSON>")  # CC12M writes it in place of each name that it removed
INLINE = frozenset(INLINE_TAGS.split())
MOJIBAKE = re.compile(r"[^\x00-\x7f]{2}|[ÂÃâ]\s")  # two such characters or more; the second may be a space
QUOTE = re.compile("[‘’‚‛′´]")  # NFKC would turn the last one into a space and a combining accent
DOUBLE_QUOTE = re.compile("[“”„‟″]")
# NFKC turns ™ into TM. The others have no glyph: soft hyphens, zero-width characters, controls of the direction of text
# (which can make a caption read as another one), tags, marks of annotations, private-use characters, noncharacters.
INVISIBLE = re.compile(
    "[™℠®\ufffd\xad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ue000-\uf8ff\ufdd0-\ufdef\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\U000e0000-\U000e007f\U000f0000-\U0010ffff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0xF0000, 0x10000))
    + "]"
)
CONTROL = re.compile(r"(?!\s)[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # UTF-8 cannot encode a lone surrogate

# A character reference by the rules of HTML's attributes, of which alt is one: without a semicolon it is none if a
# letter, a digit or "=" follows, so that "&centre" and "?a=1&copy=2" stay.
ENTITY = re.compile(r"&(?:#(?:[0-9]++|[xX][0-9a-fA-F]++);?|([A-Za-z][A-Za-z0-9]*+(?:;|(?!=))))")

# Text that software writes in front of an alt-text: Shopify on product pages, Google on its page of results.
PREFIX = re.compile(r"\A(Load image into Gallery viewer, |(Google )?Image Result for )", re.IGNORECASE)

MAX_CHARACTERS = 4_000  # read per caption: NFKC takes quadratic time, and html.unescape raises on 4,300 digits
MAX_ROUNDS = 20  # of cleaning: text that is escaped or nested more often is written to stall a reader


def normalise(text: str) -> str:
    """Return a caption as plain text: no entities, tags or CSV quoting, in Unicode's form NFKC, mojibake repaired.

    The function is idempotent: a normalised caption stays as it is.

    Args:
        text: The caption. Only its first MAX_CHARACTERS characters are read.

    Returns:
        The plain text; "" if it still changes after MAX_ROUNDS rounds of cleaning.
    """
    for _ in range(MAX_ROUNDS):  # one round can turn an escaped tag into a tag, which the next round removes
        cleaner = clean_once(text[:MAX_CHARACTERS])
        if cleaner == text:
            return text
        text = cleaner
    return ""


def clean_once(text: str) -> str:
    """Return the text after one round of cleaning."""
    if text.startswith('"') and text.endswith('"') and '""' in text:  # a CSV field, still quoted: "a 6"" plate"
        text = text[1:-1].replace('""', '"')
    if "&" in text:
        text = ENTITY.sub(_unescape, text)
    if not text.isascii():
        if MOJIBAKE.search(text) and is_bad(text):  # is_bad, ftfy's own test, takes 14 us; the repair about 50
            text = fix_encoding(text)
        text = DOUBLE_QUOTE.sub('"', QUOTE.sub("'", INVISIBLE.sub("", text)))
        text = unicodedata.normalize("NFKC", text)
    if "<" in text:
        text = PERSON.sub("person", SCRIPT.sub(" ", text))
        text = TAG.sub(lambda tag: "" if (tag[1] or "").lower() in INLINE else " ", text)
    if text.startswith(("Load image", "Image ", "Google ")):
        text = PREFIX.sub("", text)
    if not text.isprintable() or "  " in text:  # every space except " " counts as not printable
        text = " ".join(CONTROL.sub("", text).split())
    return text.strip()


def _unescape(reference: re.Match[str]) -> str:
    name = reference[1]
    return html5.get(name, reference[0]) if name else html.unescape(reference[0])
