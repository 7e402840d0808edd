"""Which captions are worth training on: `normalise` cleans a text, RULES say what is wrong with it, `keep` asks them.

A rule is a pure function of one normalised caption and is True when the caption should go. Rules know nothing of
pictures or of other rows; they are written for alt-text from the web and an English text encoder. Their figures come
from reading 10,000 LAION rows, with COCO's 25,014 captions, written by people, as the counter-check. They run in
order and the first that fires names the reason, so that counts per reason add up. Cheap questions stand before dear
ones throughout: the whole of LAION-400M passes here, and 10 us a caption is an hour of one core.
"""

# ruff: noqa: SIM905 (word lists are for reading)

import html
import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from ftfy import fix_encoding
from ftfy.badness import is_bad

# --- Cleaning --------------------------------------------------------------------------------------------------------

INLINE_TAGS = "a abbr b big cite code em font i mark q s small span strike strong style sub sup tt u wbr"
BLOCK_TAGS = """article br button center caption dd del div dl dt fieldset figcaption figure footer form h1 h2 h3 h4
    h5 h6 header hr iframe img input ins label legend li link meta nobr noscript object ol option p param pre script
    section select source svg table tbody td textarea tfoot th thead title tr ul video"""
TAG_NAMES = "|".join(sorted((INLINE_TAGS + " " + BLOCK_TAGS).split(), key=len, reverse=True))

TAG = re.compile(rf"</?({TAG_NAMES})(?=[\s/>])[^<>]*>|<!--.*?-->|<!\[CDATA\[", re.IGNORECASE | re.DOTALL)
SCRIPT = re.compile(r"<(script|style)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
PERSON = re.compile(r"<PERSON>")  # CC12M writes it for every name that it removed
INLINE = frozenset(INLINE_TAGS.split())
PAIR = re.compile(r"[^\x00-\x7f]{2}|[ÂÃâ]\s")  # mojibake is two such characters or more; the second may be a space
QUOTE = re.compile("[‘’‚‛′]")
DOUBLE_QUOTE = re.compile("[“”„‟″]")
NO_CHARACTER = re.compile("[™℠®\ufffd\u200b-\u200f\ufeff\u00ad]")  # NFKC makes "FlexTM"; lost bytes; zero width


def normalise(text: str) -> str:
    """A caption as plain text: no entities, no tags, no CSV quoting, NFKC, mojibake mended. Idempotent."""
    while (cleaner := clean_once(text)) != text:  # an escaped tag becomes a tag, a tag's text becomes an entity: again
        text = cleaner
    return text


def clean_once(text: str) -> str:
    if text.startswith('"') and text.endswith('"') and '""' in text:  # a CSV field never unquoted: "a 6"" plate"
        text = text[1:-1].replace('""', '"')
    if not text.isascii():
        if PAIR.search(text) and is_bad(text):  # is_bad, ftfy's own test, takes 14 us; the mending about 50
            text = fix_encoding(text)
        text = DOUBLE_QUOTE.sub('"', QUOTE.sub("'", NO_CHARACTER.sub("", text)))
        text = unicodedata.normalize("NFKC", text)
    if "&" in text:
        text = html.unescape(text)
    if "<" in text:
        text = PERSON.sub("person", SCRIPT.sub(" ", text))
        text = TAG.sub(lambda tag: "" if (tag[1] or "").lower() in INLINE else " ", text)
    return " ".join(text.split())


# --- What the rules look for -----------------------------------------------------------------------------------------

LETTER = re.compile(r"[^\W\d_]")
# Letters outside Latin: not U+1E00-1EFF (Vietnamese), not U+2000-2BFF (signs), not the emoji above U+1F000.
NOT_LATIN = re.compile(r"[\u0250-\u1dff\u1f00-\u1fff\u2c00-\ud7ff\uf900-\uffef\U00020000-\U0003ffff]")
SYMBOL = re.compile(r"[^\w\s]|[\d_]")
ASCII_LETTERS_AND_SPACE = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ "

URL = re.compile(
    r"(https?://|ftp://|www\.)\S+|[\w.+-]+@[\w-]+\.[\w.]+|([\w-]+\.)+(com|net|org|info|co\.uk|de|fr|ru)(/\S*)?", re.I
)
EXTENSION = re.compile(r"\.(jpe?g|png|gif|bmp|webp|tiff?|svg|psd|pdf|eps|mp4|docx?|html?|php|aspx?)$|%20", re.I)
CAMERA = re.compile(
    r"(img|dsc[fn]?|dscn|pict?|image|photo|screen ?shot|screen ?capture|whatsapp image|vlcsnap|scan|untitled)"
    r"[\s\d_.:()-]*(at )?\d[\s\d_.:()-]*([ap]m)?[\s\d()]*(\.\w{3,4})?",
    re.I,
)
MARKUP = re.compile(
    r"<[a-z/!][^<>]*=|</?[a-z]\w*>?$|(style|class|href|src|target|width|align)=[\"'{]|\{\{|\}\}|\$\{"
    r"|\[/?(url|img|caption|b|i)\b|function ?\(\w*\) ?\{",
    re.I,
)
MARKUP_CHARACTER = re.compile(r"[<={}\[]")
BOILERPLATE = re.compile(
    r"click (here|to |on (the|this|an) |for |image|the |picture|photo|thumb)"
    r"|(tap|hover|scroll|mouse over) (to|for) (enlarge|zoom)"
    r"|(view|see|show) (in )?(the )?(full|larger?|bigger|original)[ -](size|screen|image|pic|photo|version)"
    r"|(to|for) enlarge|load image into|in (a )?new (window|tab)|image may contain|no photo description"
    r"|(image|photo|picture) (is )?(not available|not found|unavailable|coming soon)|no (image|photo|picture) available"
    r"|embedded image permalink|skip to (content|main)|lorem ipsum|all rights reserved|(does|is) not support"
    r"|(accept|uses) cookies|follow us (on|by)|share (this|on (facebook|twitter))|subscribe to (our|the)|add to cart",
    re.I,
)
BOILERPLATE_WORDS = frozenset(  # every alternative above holds one of these: a question of 0.2 us before one of 13
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
PLAIN_WORD = re.compile(r"(?<![^\W_])[^\W\d_]{3,}(?![^\W_])")
HASHTAG = re.compile(r"#\w*[^\W\d_]")

# Function words. ENGLISH ones answer the FOREIGN ones; PARTICLES stand in English captions too, in names.
ENGLISH = frozenset(
    """the of and on at with for from by are were to it its this that his her their our your you we my as be have has
    how what when where who why which not or out up down new""".split()  # "in", "is", "an": Dutch or German as well
)
FOREIGN = frozenset(
    """und oder mit für einen einer eine eines zum zur auf aus ist nicht bei auch sich nach über vom ohne sind wird
    kaufen ihre mehr das der dem avec dans est ou qui que votre nous cette leur chez une aux como más desde entre
    hasta sobre por una gli della delle dei degli nel nella alla più sono che dos das uma não mais são seu sua pelo
    pela ao een voor niet naar deze zijn ook bij och för av att på är ett inte från ikke dla jest się nie oraz przez
    için ile ve és egy hogy với và của cho không dengan untuk""".split()
)
PARTICLES = frozenset(
    """de la le les du des et en un au il el los las del y con para sin di da do na no em al per pour sur sans van von
    den im die te op met og til med till des com es se""".split()
)
NOT_ENGLISH = FOREIGN | PARTICLES


# --- The rules: True when the caption should go ----------------------------------------------------------------------


@lru_cache(maxsize=1)  # three rules ask for the words of the same caption
def words(text: str) -> frozenset[str]:
    return frozenset(text.lower().split())


def empty(text: str) -> bool:
    """Nothing is left after cleaning (`keep` also says so of what is no string: a missing value, a number)."""
    return not text


def too_short(text: str) -> bool:
    """One or two characters name nothing ("ox" is the price); LAION-400M asks for five, but "cat" is a caption."""
    return 0 < len(text) < 3


def too_long(text: str) -> bool:
    """Over 1,000 characters it is a page's text or a keyword dump, and CLIP reads only the first 77 tokens."""
    return len(text) > 1000


def no_letters(text: str) -> bool:
    """Dates, prices, sizes and emoticons."""
    return text != "" and LETTER.search(text) is None


def url(text: str) -> bool:
    """A web or mail address and nothing else."""
    return " " not in text and "." in text and URL.fullmatch(text) is not None


def file_name(text: str) -> bool:
    """Alt-text that software took from the file: red-bus-in-london-2, DSC_0012.JPG, Screenshot 2019-01-01."""
    if " " in text:
        return CAMERA.fullmatch(text) is not None
    slug = text.count("-") > 2 or (text.count("-") == 2 and any(map(str.isdigit, text)))
    return slug or "_" in text or EXTENSION.search(text) is not None or CAMERA.fullmatch(text) is not None


def markup(text: str) -> bool:
    """HTML, templates or scripts that cleaning could not remove, most often a tag cut in half."""
    return MARKUP_CHARACTER.search(text) is not None and MARKUP.search(text) is not None


def boilerplate(text: str) -> bool:
    """The page speaks to its visitor (click to enlarge, image may contain); Conceptual Captions drops these as well."""
    return not BOILERPLATE_WORDS.isdisjoint(words(text)) and BOILERPLATE.search(text) is not None


def placeholder(text: str) -> bool:
    """The whole caption says only that there is a picture: image 3, company logo, untitled."""
    return len(text) < 40 and PLACEHOLDER.fullmatch(text) is not None


def repeated_characters(text: str) -> bool:
    """Five equal letters in a row are no English word; digits and dots may repeat."""
    number = int.from_bytes(text.encode(), "big")  # equal neighbours become zero bytes: 6 times as fast as the regex
    neighbours = (number ^ number >> 8).to_bytes((number.bit_length() + 7) // 8, "big")
    return b"\0\0\0\0" in neighbours and SAME_LETTER.search(text) is not None


def repeated_words(text: str) -> bool:
    """Search-engine stuffing: fewer than half of the words are new."""
    num_words = text.count(" ") + 1
    return num_words > 3 and 2 * len(words(text)) < num_words


def mostly_symbols(text: str) -> bool:
    """Over half of the characters are digits and signs: tables, part lists, times and scores."""
    if text.isascii():
        symbols = len(text.encode().translate(None, ASCII_LETTERS_AND_SPACE))
    else:
        symbols = len(SYMBOL.findall(text))
    return 2 * symbols > len(text) and LETTER.search(text) is not None


def wrong_script(text: str) -> bool:
    """A fifth of the letters are not Latin: CLIP's and BERT's English encoders never learned them."""
    if text.isascii() or NOT_LATIN.search(text) is None:
        return False
    return len(NOT_LATIN.findall(text)) > 0.2 * len(LETTER.findall(text))


def foreign_language(text: str) -> bool:
    """More function words of another language than English ones. Without function words the caption stays."""
    found = words(text)
    if NOT_ENGLISH.isdisjoint(found):
        return False
    foreign, particles, english = len(found & FOREIGN), len(found & PARTICLES), len(found & ENGLISH)
    return (foreign > 0 and 2 * foreign + particles > 2 * english) or (particles > 2 and english == 0)


def product_code(text: str) -> bool:
    """A short line of numbers and letters, with no word of three letters in it but "SKU", "part" and the like."""
    if len(text) > 60:
        return False
    first = PLAIN_WORD.search(text)
    if first and first[0].lower() not in CODE_WORDS:
        return False
    if DIGIT.search(text) is None or LETTER.search(text) is None:
        return False
    return CODE_WORDS.issuperset(PLAIN_WORD.findall(text.lower()))


def hashtags(text: str) -> bool:
    """Half of the words, and at least three, are hashtags."""
    return text.count("#") > 2 and 2 * len(HASHTAG.findall(text)) >= len(text.split())


def keyword_list(text: str) -> bool:
    """Eight or more commas, a word or two between them: a page's keywords, not a sentence."""
    commas = text.count(",")
    return commas > 7 and len(text.split()) < 2 * (commas + 1)


RULES: dict[str, Callable[[str], bool]] = {
    rule.__name__: rule
    for rule in (
        empty,
        too_short,
        too_long,
        no_letters,
        url,
        file_name,
        markup,
        boilerplate,
        placeholder,
        repeated_characters,
        repeated_words,
        mostly_symbols,
        wrong_script,
        foreign_language,
        product_code,
        hashtags,
        keyword_list,
    )
}


def keep(text: object) -> str | None:
    """None when the caption is worth training on, else the name of the first rule that it breaks. Normalises it itself.

    What is no string (None, NaN from pandas) is "empty". Train on `normalise(text)`, which is what the rules saw.
    """
    if not isinstance(text, str):
        return "empty"
    text = normalise(text)
    for name, rule in RULES.items():
        if rule(text):
            return name
    return None
