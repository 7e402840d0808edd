"""CLIP's ids of a caption's words: those of `open_clip.SimpleTokenizer`, id for id, in less time and bounded memory.

Training reads every caption once, so tokenizing is most of what a sample costs before the network. Two things are saved
here: repairing text that has nothing to repair, and splitting a word that has been split before. open_clip remembers
words as well, but all of them: over hundreds of millions of captions from the web that is gigabytes of names and
misspellings.
"""

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from open_clip import SimpleTokenizer

WORDS = 1 << 17  # remembered: about 30 MB; more words than a large dictionary has, the rarest of them dropped first


def encode(caption: str) -> list[int]:
    """The ids of a caption, without those of start and end; as many as it takes."""
    return [number for word in vocabulary().pat.findall(_cleaned(caption)) for number in word_ids(word)]


@lru_cache(maxsize=1)
def vocabulary() -> "SimpleTokenizer":
    """CLIP's merges, word pattern and special ids: one for the process."""
    from open_clip import SimpleTokenizer  # takes seconds, which a driver does not need

    return SimpleTokenizer()


def _cleaned(caption: str) -> str:
    """Lower case, single spaces, broken encodings put right, HTML's entities resolved."""
    # Repairs are about entities, control characters, line ends and what is not ASCII. Most captions have none of it.
    if caption.isascii() and caption.isprintable() and "&" not in caption:
        return " ".join(caption.split()).lower()
    return vocabulary().clean_fn(caption)


@lru_cache(maxsize=WORDS)
def word_ids(word: str) -> tuple[int, ...]:
    """The ids of one word of the pattern."""
    words = vocabulary()
    letters = "".join(words.byte_encoder[byte] for byte in word.encode())
    parts = words.bpe(letters).split(" ")
    if words.encoder.get(letters) not in words.all_special_ids:
        words.cache.pop(letters, None)  # open_clip's own memory, without end
    return tuple(words.encoder[part] for part in parts)
