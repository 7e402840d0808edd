"""CLIP's token ids of captions: the same as those of `open_clip.SimpleTokenizer`, in less time and bounded memory.

Training reads every caption once, so tokenizing is most of the work on a sample before the network. Two things are
saved here: repairing text that needs no repair, and splitting a word that has been split before. open_clip caches words
as well, but without a limit: over hundreds of millions of captions from the web that is gigabytes of names and
misspellings.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer

MAX_CACHED_WORDS = 1 << 17  # about 30 MB, more than a large dictionary has; the least recently used is dropped


def encode(caption: str) -> list[int]:
    """Return all ids of a caption, without those of the start and end tokens."""
    return [token_id for word in vocabulary().pat.findall(_cleaned(caption)) for token_id in word_ids(word)]


@lru_cache(maxsize=1)
def vocabulary() -> "SimpleTokenizer":
    """Return open_clip's tokenizer, which has CLIP's merges, word pattern and special ids: one per process."""
    from open_clip import SimpleTokenizer  # takes seconds, which a driver does not need

    return SimpleTokenizer()


def _cleaned(caption: str) -> str:
    """Return a caption in lower case, with single spaces, broken encodings repaired and HTML entities resolved."""
    # Only entities, control characters, line ends and non-ASCII characters need repair. Most captions have none.
    if caption.isascii() and caption.isprintable() and "&" not in caption:
        return " ".join(caption.split()).lower()
    return vocabulary().clean_fn(caption)


@lru_cache(maxsize=MAX_CACHED_WORDS)
def word_ids(word: str) -> tuple[int, ...]:
    """Return the ids of one match of the word pattern."""
    words = vocabulary()
    letters = "".join(words.byte_encoder[byte] for byte in word.encode())
    parts = words.bpe(letters).split(" ")
    if words.encoder.get(letters) not in words.all_special_ids:
        words.cache.pop(letters, None)  # open_clip's own cache, which has no limit
    return tuple(words.encoder[part] for part in parts)
