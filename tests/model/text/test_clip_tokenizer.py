"""CLIP's ids are those of open_clip's own tokenizer, on hand-made and on real captions."""

import json
from collections.abc import Sequence
from pathlib import Path

import open_clip
import pyarrow.parquet as pq
import pytest
import torch

from emage.config import ModelConfig
from emage.model.text.clip import ClipText
from emage.model.text.clip_tokenizer import MAX_CACHED_WORDS, encode, vocabulary, word_ids

ODD = [
    *["", " ", "\t two\n lines\r\n\x0b", "a\x1b[31mred\x1b[0m\x07 thing\x00", "\x7f", "x" * 500],
    *["&amp;amp;lt;b&gt;", "R&B", "&", "fish & chips", "<b>&eacute;</b>", "&#x27;&#39;", "&AMP; &copy"],
    *["I'll don't WE'VE 's's'", "it\u2019s \u201cquoted\u201d", "3.14 1,000 10x20", "a_b-c/d\\e", "!!! ... ???"],
    *[
        "\u00c3\u00a9t\u00c3\u00a9",
        "caf\u00e9 cafe\u0301",
        "\ufb01ne \uff21\uff22",
        "\u732b\u3067\u3059",
        "\U0001f600!",
    ],
    *["<start_of_text>a<END_OF_TEXT>b", "<end_of_text", "word " * 75, "word " * 76, "I\u0307stanbul \u0130"],
    *["nbsp\u00a0here\u2003there\u2028", "\u200bzero\u00ad", *(f"a{chr(i)}b" for i in range(256))],
]


def assert_same(captions: Sequence[str]) -> None:
    """Compare with open_clip's tokenizer at one more position: captions that reach it were truncated."""
    encoder, theirs = ClipText(ModelConfig(text="clip_tiny")), open_clip.SimpleTokenizer()
    ids, truncated = encoder.tokenize(captions)
    assert ids.dtype == torch.int64 and ids.shape == (len(captions), 77)
    assert torch.equal(ids, theirs(list(captions), context_length=77))
    assert torch.equal(truncated, theirs(list(captions), context_length=78)[:, -1] == theirs.eot_token_id)


def test_odd_captions():
    assert_same(ODD)
    assert_same(ODD[::-1])  # nothing is remembered wrongly


def test_an_empty_list_of_captions():
    ids, truncated = ClipText(ModelConfig(text="clip_tiny")).tokenize([])
    assert ids.shape == (0, 77) and truncated.shape == (0,) and truncated.dtype == torch.bool


@pytest.mark.parametrize("source", ["laion_urls_10k.parquet", "coco_captions_val2017.json"])
def test_real_captions(real_data: Path, source: str):
    if source.endswith("parquet"):
        captions = pq.read_table(real_data / source, columns=["TEXT"])["TEXT"].fill_null("").to_pylist()
    else:
        captions = [row["caption"] for row in json.loads((real_data / source).read_text())["annotations"]][:10_000]
    assert len(captions) == 10_000
    assert_same(captions)


def test_the_cache_of_words_is_limited():
    """open_clip's own cache keeps every word that it ever split."""
    encode("before")
    cached = len(vocabulary().cache)
    for i in range(2_000):
        encode("zq" + "".join(chr(ord("a") + int(digit)) for digit in str(i)))
    assert len(vocabulary().cache) == cached == 2  # start and end of text
    assert word_ids.cache_info().maxsize == MAX_CACHED_WORDS
