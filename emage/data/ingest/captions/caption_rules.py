"""The rules that decide which captions are worth training on: `drop_reason` applies RULES to a cleaned caption.

A rule is a pure function of one normalised caption and returns True if the caption should be dropped. Its docstring
describes such a caption: the first line is printed in the ingest report. Rules see neither the image nor other rows.
They are written for alt-text from the web. Those of LANGUAGE_RULES depend on the languages that are wanted, English if
nothing else is said: CLIP's text encoder knows no other. Rules run in order, and the first one that returns True names
the drop reason, so that the counts per reason add up.
Cheap checks come before expensive ones: the whole of LAION-400M passes here, and 10 us per caption are one hour of one
core.
"""

from collections import Counter
from collections.abc import Callable, Collection
from functools import lru_cache, partial

from emage.data.ingest.captions.caption_cleaning import normalise
from emage.data.ingest.captions.caption_language import ANY, foreign_language, wrong_script
from emage.data.ingest.captions.caption_words import (
    ASCII_LETTERS_AND_SPACE,
    BOILERPLATE,
    BOILERPLATE_WORDS,
    CAMERA,
    CODE_WORDS,
    COPY_NUMBER,
    DIGIT,
    EXTENSION,
    HASHTAG,
    HEX,
    HEX_SHAPE,
    LETTER,
    MARKUP,
    MISSING,
    NOT_LATIN,
    PLACEHOLDER,
    PLAIN_WORD,
    SAME_LETTER,
    SYMBOL,
    URL,
)

Rules = dict[str, Callable[[str], bool]]  # by drop reason


@lru_cache(maxsize=1)  # three rules need the words of the same caption
def words(text: str) -> frozenset[str]:
    """Return the different words of a caption, in lower case."""
    return frozenset(text.lower().split())


def empty(text: str) -> bool:
    """Nothing is left after cleaning, or what is left means a missing value: nan, NULL, N/A."""
    return text in MISSING


def too_short(text: str) -> bool:
    """One or two Latin characters, which rarely name anything: "ox" is lost, "cat" is kept; LAION-400M wants five."""
    return 0 < len(text) < 3 and NOT_LATIN.search(text) is None


def too_long(text: str) -> bool:
    """Over 1,000 characters: a page's text or a list of keywords; CLIP reads only the first 77 tokens."""
    return len(text) > 1000


def no_letters(text: str) -> bool:
    """No letter at all: a date, a price, a size, an emoticon."""
    return text != "" and not text[0].isalpha() and LETTER.search(text) is None


def url(text: str) -> bool:
    """A web or mail address and nothing else."""
    return " " not in text and "." in text and URL.fullmatch(text) is not None


def file_name(text: str) -> bool:
    """Alt-text that software took from the file: red-bus-in-london-2, DSC_0012.JPG, Screenshot 2019-01-01."""
    if ")" in text:
        text = COPY_NUMBER.sub("", text)
    if " " in text:
        return len(text) < 80 and CAMERA.fullmatch(text) is not None  # its time grows with the cube of the length
    joints = text.count("-") + text.count("+")
    slug = joints > 2 or (joints == 2 and any(map(str.isdigit, text)))
    return slug or "_" in text or EXTENSION.search(text) is not None or CAMERA.fullmatch(text[:80]) is not None


def markup(text: str) -> bool:
    """HTML, templates or scripts that cleaning could not remove, most often a truncated tag."""
    suspect = "<" in text or "=" in text or "[" in text or "{" in text or "}" in text
    return suspect and MARKUP.search(text) is not None


def boilerplate(text: str) -> bool:
    """Text of the page's software (click to enlarge, image may contain); Conceptual Captions drops it as well."""
    return not BOILERPLATE_WORDS.isdisjoint(words(text)) and BOILERPLATE.search(text) is not None


def placeholder(text: str) -> bool:
    """The whole caption only states that there is an image: image 3, company logo, untitled."""
    return len(text) < 40 and PLACEHOLDER.fullmatch(text) is not None


def repeated_characters(text: str) -> bool:
    """Five equal letters in a row, which no English word has; digits and dots may repeat."""
    data = text.encode()
    number = int.from_bytes(data, "big")  # equal neighbours become zero bytes: 6 times as fast as the regex
    neighbours = (number ^ number >> 8).to_bytes(len(data), "big")
    return neighbours.find(b"\0\0\0\0") >= 0 and SAME_LETTER.search(text) is not None  # faster than `in`, here too


def repeated_words(text: str) -> bool:
    """Search-engine stuffing: at most half of the words are new, or one word is a quarter of them all."""
    num_words = text.count(" ") + 1
    repeats = num_words - len(words(text))
    if num_words < 4 or repeats < 3:
        return False
    if 2 * repeats > num_words or (2 * repeats == num_words and num_words > 5):
        return True
    return 4 * (repeats + 1) >= num_words and 4 * count_most_frequent(text) >= max(num_words, 16)


def count_most_frequent(text: str) -> int:
    """Return how often the most frequent word of at least four letters occurs."""
    return max(Counter(word for word in text.lower().split() if len(word) > 3).values(), default=0)


def mostly_symbols(text: str) -> bool:
    """Over half of the characters are digits and signs: a table, a part list, times, scores."""
    if text.isascii():
        symbols = len(text.encode().translate(None, ASCII_LETTERS_AND_SPACE))
    else:
        symbols = len(SYMBOL.findall(text))
    return 2 * symbols > len(text) and LETTER.search(text) is not None


def product_code(text: str) -> bool:
    """A short line of numbers and Latin letters, without a word of three letters but "SKU", "part" and the like."""
    if len(text) > 60:
        return False
    first = PLAIN_WORD.search(text)
    if first and first[0].lower() not in CODE_WORDS:
        return False
    if DIGIT.search(text) is None or LETTER.search(text) is None or NOT_LATIN.search(text) is not None:
        return False
    return CODE_WORDS.issuperset(PLAIN_WORD.findall(text.lower()))


def hash_code(text: str) -> bool:
    """Hexadecimal numbers, one of 8 digits or two of 5 ("fa589 a2efe"): generated shop pages that attract searches."""
    if text.encode().translate(HEX_SHAPE).find(b"a0") < 0:  # a letter, then a digit: most captions have none
        return False
    numbers = HEX.findall(text)
    return len(numbers) > 1 or (len(numbers) == 1 and len(numbers[0]) > 7)


def hashtags(text: str) -> bool:
    """At least three hashtags, which are at least half of the words."""
    return text.count("#") > 2 and 2 * len(HASHTAG.findall(text)) >= len(text.split())


def keyword_list(text: str) -> bool:
    """A page's keywords: eight commas with one or two words between them, or eight words after "Tags:"."""
    commas = text.count(",")
    if commas > 7 and len(text.split()) < 2 * (commas + 1):
        return True
    return " Tags: " in text and len(text.partition(" Tags: ")[2].split()) > 7


LANGUAGE_RULES = {"wrong_script": wrong_script, "foreign_language": foreign_language}

# Drop reason -> rule, applied in this order. The reasons are values of a column on disk: a function may be renamed, a
# reason must not.
RULES: Rules = {
    "empty": empty,
    "too_short": too_short,
    "too_long": too_long,
    "no_letters": no_letters,
    "url": url,
    "file_name": file_name,
    "markup": markup,
    "boilerplate": boilerplate,
    "placeholder": placeholder,
    "repeated_characters": repeated_characters,
    "repeated_words": repeated_words,
    "mostly_symbols": mostly_symbols,
    "product_code": product_code,
    "hash_code": hash_code,
    "hashtags": hashtags,
    "keyword_list": keyword_list,
    **LANGUAGE_RULES,
}

# Part of a tokenized shard's identity. If cleaning or rules give any caption another result, set a new value: otherwise
# shards that were made by the old rules are taken for shards of the new ones.
RULES_VERSION = "3"


def rules_for(languages: Collection[str]) -> Rules:
    """Return the rules for captions in some languages, such as ["en", "de"]; with "any" among them, in all."""
    if ANY in languages:
        return {name: rule for name, rule in RULES.items() if name not in LANGUAGE_RULES}
    return RULES | {name: partial(rule, languages=languages) for name, rule in LANGUAGE_RULES.items()}


def drop_reason(text: object, rules: Rules = RULES) -> str | None:
    """Return the drop reason of a caption that is not worth training on.

    Args:
        text: The caption as it came; it is normalised here. Train on `normalise(text)`, which is what the rules see.
            Anything that is not a string (None, NaN of pandas) has the reason "empty".
        rules: RULES, which are for English captions, or those of `rules_for`.

    Returns:
        The name of the first rule that drops the caption, or None if the caption is kept.
    """
    return first_broken(normalise(text), rules) if isinstance(text, str) else "empty"


def first_broken(text: str, rules: Rules) -> str | None:
    """Return the name of the first rule that drops a normalised caption, or None if it is kept."""
    for name, rule in rules.items():
        if rule(text):
            return name
    return None
