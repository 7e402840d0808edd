"""A frozen encoder encodes a caption once; cached states are never older than its weights."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from emage.config import ModelConfig
from emage.model.text import ENCODERS, TextEncoder, load_published
from emage.model.text.state_cache import TRAINING_BATCH, StateCache

TINY = pytest.mark.parametrize("text", ["clip_tiny", "bert_tiny"])


class Counted(nn.Module):
    """A network around an encoder, as in training; `rows` counts the captions that its tower has encoded."""

    def __init__(self, text: str, frozen: bool = True, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.text: TextEncoder = ENCODERS[text](ModelConfig(text=text, text_length=16, text_frozen=frozen)).eval()
        self.rows = 0
        self.text.tower.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, tower, args, kwargs):
        self.rows += len(args[0] if args else kwargs["input_ids"])

    def read(self, *captions: str) -> torch.Tensor:
        return self.text(self.text.tokenize(captions)[0])


@TINY
def test_a_caption_is_encoded_once(text: str):
    frozen, trained = Counted(text), Counted(text, frozen=False)
    first = frozen.read("a red circle", "a blue square")
    assert frozen.rows == 2
    assert torch.equal(frozen.read("a blue square", "a red circle"), first.flip(0)) and frozen.rows == 2
    mixed = "a red circle", "a cat", "a cat", "a blue square"
    states = frozen.read(*mixed)
    assert frozen.rows == 3  # the cat, once
    assert torch.allclose(states, trained.read(*mixed), atol=1e-5)  # a batch of another size rounds another way


@TINY
def test_a_trained_encoder_caches_nothing(text: str):
    trained = Counted(text, frozen=False)
    trained.read("a cat")
    trained.read("a cat")
    assert trained.rows == 2


def load(network: Counted, other: Counted, **how) -> None:
    network.load_state_dict(other.state_dict(), **how)


def write(network: Counted, other: Counted) -> None:
    with torch.no_grad():
        for mine, theirs in zip(network.parameters(), other.parameters(), strict=True):
            mine.copy_(theirs)


@TINY
@pytest.mark.parametrize("how", [load, partial(load, assign=True), write])
def test_new_weights_are_used(how: Callable, text: str):
    frozen, other = Counted(text), Counted(text, seed=1)
    frozen.read("a cat")
    how(frozen, other)
    assert torch.equal(frozen.read("a cat"), other.read("a cat"))


@TINY
def test_another_dtype_is_used(text: str):
    frozen = Counted(text)
    states = frozen.read("a cat")
    assert frozen.to(torch.float64).read("a cat").dtype == torch.float64
    assert torch.allclose(frozen.to(torch.float32).read("a cat"), states, atol=1e-6) and frozen.rows == 3


def test_another_precision_is_used():
    frozen = Counted("clip_tiny")
    states = frozen.read("a cat")
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(frozen.read("a cat"), states)
    assert torch.equal(frozen.read("a cat"), states) and frozen.rows == 2


def test_published_weights_are_used(tmp_path: Path):
    frozen, published = Counted("clip_tiny"), Counted("clip_tiny", seed=1)
    frozen.read("a cat")
    save_file(published.text.tower.state_dict(), tmp_path / "clip.safetensors")
    load_published(frozen.text, ModelConfig(text="clip_tiny", text_weights=str(tmp_path / "clip.safetensors")))
    assert torch.equal(frozen.read("a cat"), published.read("a cat"))


@TINY
def test_copies_state_dicts_and_pickles_hold_none_of_it(text: str):
    frozen = Counted(text)
    keys = list(frozen.state_dict())
    frozen.read("a cat")
    assert list(frozen.state_dict()) == keys
    for other in (copy.deepcopy(frozen.text), pickle.loads(pickle.dumps(frozen.text))):
        assert other._cache._rows.currsize == 0 and other._cache._rows.maxsize == 1 << 30
    assert frozen.text._cache._rows.currsize == 16 * 64 * 4  # a caption's states, float32


def test_in_training_rows_are_encoded_in_one_shape():
    """The bits of a row must not depend on how many others were missing."""
    cache, shapes = StateCache(), []

    def read(ids: torch.Tensor) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return 10.0 * ids[:, :, None]

    for wanted in ([1, 2, 3], [3, 4], list(range(5, 5 + TRAINING_BATCH + 1)), [1, 4]):
        assert cache(torch.tensor(wanted)[:, None], nn.Identity(), read)[:, 0, 0].tolist() == [10 * i for i in wanted]
    assert shapes == [(TRAINING_BATCH, 1)] * 4  # 3 rows, 1 row, 9 rows in two, none


def test_the_least_recently_used_rows_go_first():
    cache, encoded = StateCache(max_bytes=2 * 4).eval(), []

    def read(ids: torch.Tensor) -> torch.Tensor:
        encoded.extend(ids[:, 0].tolist())
        return 10.0 * ids[:, :, None]  # (M,1,1) float32: 4 bytes a row

    for wanted in ([1, 2], [1], [3], [1], [2]):  # 3 drives out 2, and 2 then 3
        assert cache(torch.tensor(wanted)[:, None], nn.Identity(), read)[:, 0, 0].tolist() == [10 * i for i in wanted]
    assert encoded == [1, 2, 3, 2]


def test_a_batch_larger_than_the_cache_is_encoded_whole():
    cache = StateCache(max_bytes=2 * 4)
    ids = torch.arange(5)[:, None]
    assert cache(ids, nn.Identity(), lambda rows: 10.0 * rows[:, :, None])[:, 0, 0].tolist() == [0, 10, 20, 30, 40]
    # What is kept is a row alone, not a window on its batch.
    assert [row.untyped_storage().nbytes() for row in cache._rows.values()] == [4, 4]
