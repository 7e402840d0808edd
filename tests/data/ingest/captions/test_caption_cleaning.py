"""Cleaning of captions: each kind of residue in an alt-text, and random pieces of text."""

# ruff: noqa: SIM905 (lists are for reading)

import random

import pytest

from emage.data.ingest.captions.caption_cleaning import normalise
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
}


@pytest.mark.parametrize("text", CLEANED)
def test_normalise(text):
    assert normalise(text) == CLEANED[text]


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
    http:// @ %20 {{ [url href=" SKU #x &#x80; &nbsp; &Atilde; &copy; \0 \x85 \xa0 \xa8 \xa9 \xb4 \xbd \xc3
    \xe2\u20ac\u2122 \u0301 \u0316 \u0345 \u03a9 \u1100 \u1161 \u1e9b\u0323 \u200b \u2028 \u2033 \u2122 \u2460 \u4e2d
    \uac00 \ud800 \ufb01 \ufdfa \ufeff \uff02 \uff06 \uff1c \U0001f600""".split()
PIECES = [" ", *(piece.encode("ascii").decode("unicode_escape") for piece in PIECES)]


@pytest.mark.parametrize("seed", range(10))
def test_cleaning_is_idempotent_for_any_text(seed):
    rng = random.Random(seed)
    for _ in range(300):
        text = "".join(rng.choice([*PIECES, chr(rng.randrange(0x110000))]) for _ in range(rng.choice([2, 8, 40])))
        once = normalise(text)
        assert normalise(once) == once
        once.encode()  # no lone surrogate is left
        assert drop_reason(text) is None or drop_reason(text) in RULES
