"""Cleaning of captions: each kind of residue in an alt-text, and random pieces of text."""

# ruff: noqa: SIM905 (lists are for reading)

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emage.data.ingest.captions.caption_cleaning import MAX_CHARACTERS, normalise
from emage.data.ingest.captions.caption_rules import RULES, drop_reason

CLEANED = {
    "  two\n\twhite\u00a0swans ": "two white swans",
    "Soap &amp;amp; <b>Gl</b>ory<br/>balm": "Soap & Glory balm",
    "&lt;i&gt;Muntiacus&lt;/i&gt; skull": "Muntiacus skull",
    '"Folding 42"" umbrella"': 'Folding 42" umbrella',
    "cafÃ© terrace at night": "café terrace at night",
    "Flex™ fridge, 149 m²": "Flex fridge, 149 m2",
    "\u201cfull\u201d \uff37idth": '"full" Width',
    "<PERSON> on a bench": "person on a bench",
    "i <3 this lake": "i <3 this lake",
    "<script>var a = '<b>';</script>lake<!-- id 7 -->": "lake",
    "lake<!-- cut in the mid": "lake",
    "Washington´s monument": "Washington's monument",
    "a\0b\x07 lake\ud800": "ab lake",
    "Load image into Gallery viewer, Polo Shirt": "Polo Shirt",
    "Image result for red bus": "red bus",
    "&" + "amp;" * 15 + " co": "& co",
    "&" + "amp;" * 50 + " co": "",  # more often than MAX_ROUNDS
    "Welcome to Tom &centre, fish &amp chips": "Welcome to Tom &centre, fish & chips",
    "&copy 2020 Ann, a=1&copy=2 &copyright; &#39x": "© 2020 Ann, a=1&copy=2 &copyright; 'x",
    "gar\u202dden\u2066 in \u061cspring&#x202e;": "garden in spring",  # controls of the direction
    "\ue0a1 cart \U000f0001\U0010fffd\ufdd0\U0001ffff icon": "cart icon",  # private use, noncharacters
    "flag \U0001f3f4\U000e0067\U000e007f up\ufff9\u2060": "flag \U0001f3f4 up",  # tags, annotations, joiners
    "one\u2028two\x0bthree\x0cfour\x85five": "one two three four five",
}


@pytest.mark.parametrize("text", CLEANED)
def test_normalise(text):
    assert normalise(text) == CLEANED[text]


BIDI_CONTROLS = ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")  # by their Unicode property

NESTED = [
    "&amp;" * 3 + "amp;amp;lt;b&gt;x",
    '"""""a"" b"""',
    "&#60;br&#62;&#38;lt;",
    "<<b>b>x</b>",
    "\ufb01 ﷺ ℌ Ã\x83Â©",
]


@pytest.mark.parametrize("text", [*CLEANED, *NESTED])
def test_normalise_is_idempotent(text):
    once = normalise(text)
    assert normalise(once) == once


PIECES = r"""<b> </b < > & &amp; amp; lt; &lt; &#60; #38; " "" <!-- --> <script> </script> a Image 1 - _ .jpg www.
    http:// @ %20 {{ [url href=" SKU #x &#x80; &nbsp; &Atilde; &copy; &cent re; \0 \x85 \xa0 \xa8 \xa9 \xb4 \xbd \xc3
    \xe2\u20ac\u2122 \u0301 \u0316 \u0345 \u03a9 \u1100 \u1161 \u1e9b\u0323 \u200b \u2028 \u2033 \u2122 \u2460 \u4e2d
    \uac00 \ud800 \ufb01 \ufdfa \ufeff \uff02 \uff06 \uff1c \U0001f600 \u202e &#x202e; \u2067 \ue000 &#xe000;""".split()
PIECES = [" ", *(piece.encode("ascii").decode("unicode_escape") for piece in PIECES)]
CHARACTERS = st.characters(exclude_categories=())  # lone surrogates too
CAPTIONS = st.lists(st.sampled_from(PIECES) | st.text(CHARACTERS, max_size=8), max_size=40).map("".join)


@given(CAPTIONS)
def test_cleaning_is_idempotent_readable_and_bounded(text):
    once = normalise(text)
    assert normalise(once) == once
    assert len(once) <= 18 * min(len(text), MAX_CHARACTERS)  # NFKC makes at most 18 characters of one
    assert once == once.strip() and "  " not in once
    unreadable = [character for character in once if unicodedata.category(character) in ("Cc", "Cs", "Co", "Zl", "Zp")]
    assert unreadable == []
    assert not any(unicodedata.bidirectional(character) in BIDI_CONTROLS for character in once)
    assert drop_reason(text) is None or drop_reason(text) in RULES
