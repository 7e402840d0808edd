"""The patterns that the caption rules look for. No logic: caption_rules.py uses them.

They were tuned by reading 10,000 LAION rows, with COCO's 25,014 captions, which people wrote, as the counter-check.
"""

# ruff: noqa: SIM905 (word lists are for reading)

import re

# What programs write for a missing text: pandas, numpy, databases ("\\N"), JavaScript, spreadsheets. No whole caption.
_MISSING = "nan NaN NaT nat null none nil na n/a n.a. #n/a <na> undefined".split()
MISSING = frozenset(
    ["", "\\N", "(null)", *(f(word) for word in _MISSING for f in (str, str.upper, str.lower, str.capitalize))]
)

LETTER = re.compile(r"[^\W\d_]")
# Letters of other scripts: not U+1E00-1EFF (Vietnamese), not U+2000-2BFF (signs), not the emoji above U+1F000.
NOT_LATIN = re.compile(r"[\u0250-\u1dff\u1f00-\u1fff\u2c00-\ud7ff\uf900-\uffef\U00020000-\U0003ffff]")
SYMBOL = re.compile(r"[^\w\s]|[\d_]")
ASCII_LETTERS_AND_SPACE = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ "

URL = re.compile(
    r"(https?://|ftp://|www\.)\S+|[\w.+-]+@[\w-]+\.[\w.]+"
    r"|([\w-]+\.)*[\w-]{3,}\.(co\.)?([a-z]{2}|com|net|org|edu|gov|info|biz|shop|store|online|blog)(/\S*)?",
    re.I,
)
EXTENSION = re.compile(r"\.(jpe?g|png|gif|bmp|webp|tiff?|svg|psd|pdf|eps|mp4|docx?|html?|php|aspx?)$|%20", re.I)
CAMERA = re.compile(
    r"(img|dsc[fn]?|dscn|pict?|image|photo|screen ?shot|screen ?capture|whatsapp image|vlcsnap|scan|untitled)"
    r"[\s\d_.:()-]*(at )?\d[\s\d_.:()-]*([ap]m)?[\s\d()]*(\.\w{3,4})?",
    re.I,
)
COPY_NUMBER = re.compile(r" ?\(\d+\)(?=$|\.\w{3,4}$)")  # file systems add it to a second file of the same name
MARKUP = re.compile(
    r"<[a-z/!][^<>]*=|</?[a-z]\w*>?$|(style|class|href|src|target|width|align)=[\"'{]|\{\{|\}\}|\$\{"
    r"|\[/?(url|img|caption|b|i)\b|function ?\(\w*\) ?\{",
    re.I,
)
BOILERPLATE = re.compile(
    r"click (here|to |on (the|this|an) |for |image|the |picture|photo|thumb)"
    r"|(tap|hover|scroll|mouse over) (to|for) (enlarge|zoom)"
    r"|(view|see|show) (in )?(the )?(full|larger?|bigger|original)[ -](size|screen|image|pic|photo|version)"
    r"|(to|for) enlarge|load image into|in (a )?new (window|tab)|image may contain|no photo description"
    r"|(image|photo|picture) (is )?(not available|not found|unavailable|coming soon)|no (image|photo|picture) available"
    r"|embedded image permalink|skip to (content|main)|lorem ipsum|all rights reserved|(does|is) not support"
    r"|(accept|uses) cookies|follow us (on|by)|share (this|on (facebook|twitter))|subscribe to (our|the|rss)"
    r"|add to cart",
    re.I,
)
BOILERPLATE_WORDS = frozenset(  # every alternative above contains one of these: a check of 0.2 us before one of 13 us
    """click (click [click *click enlarge enlarge) enlarge. zoom zoom) zoom. view (view see (see show into window
    window) window. tab tab) tab. contain contain: description available available. available) found found. found)
    unavailable unavailable. coming permalink skip ipsum rights support cookies cookies. follow share subscribe
    cart cart.""".split()
)
PLACEHOLDER = re.compile(
    r"((the|a|an|my|our|your|main|featured|default|product|post|blog|article|profile|user|cover|header|background|site"
    r"|company|website|official|gallery|full|large|small|related|alternate|additional|selected|no|new|first|next"
    r"|previous|sample|picture|image|photo|video|author|of|for|item|page|slide|view|home|logo|icon|thumb)[\s-]+)*"
    r"(image|img|photo|picture|pic|logo|icon|avatar|banner|thumbnail|thumb|screenshot|placeholder|untitled|slide"
    r"|default|unknown|null|undefined|none|n/a|spacer|favicon|gallery|preview)s?[\s#.:_-]*\d{0,4}( of \d+)?\W*",
    re.I,
)
SAME_LETTER = re.compile(r"([^\W\d_])\1{4}")
DIGIT = re.compile(r"\d")
CODE_WORDS = frozenset("sku item part mfg ref isbn ean upc asin mpn code art num number stk stock qty pcs lot".split())
HEX = re.compile(r"(?<![^\W_])(?=[0-9a-f]*[a-f][0-9])[0-9a-f]{5,}(?![^\W_])")
HEX_SHAPE = bytes.maketrans(b"0123456789abcdef", b"0" * 10 + b"a" * 6)
PLAIN_WORD = re.compile(r"(?<![^\W_])[^\W\d_]{3,}(?![^\W_])")
HASHTAG = re.compile(r"#\w*[^\W\d_]")
