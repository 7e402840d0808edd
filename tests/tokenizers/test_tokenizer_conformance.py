"""The requirements of every entry of TOKENIZERS. A new entry is tested here without a change of this file.

The networks have their real sizes and random weights (the shipped one its own): no published file can be fetched here.
"""

import pytest
import torch
from torch import Tensor

from emage import tokenizers
from emage.tokenizers import TOKENIZERS, Published, Tokenizer, weight_files


@pytest.fixture(scope="module", params=sorted(TOKENIZERS))
def tokenizer(request) -> Tokenizer:
    entry = TOKENIZERS[request.param]
    if not isinstance(entry, Published):
        return tokenizers.load(request.param)
    torch.manual_seed(0)
    network = weight_files.build_network(entry.config, request.param)
    return weight_files.build(request.param, entry.config, network.state_dict())


@pytest.fixture(scope="module")
def pixels(tokenizer: Tokenizer) -> Tensor:
    """Two images, 2 x 3 tokens each, (2,3,H,W)."""
    height, width = 2 * tokenizer.stride, 3 * tokenizer.stride
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def ids(tokenizer: Tokenizer, pixels: Tensor) -> Tensor:
    return tokenizer.encode(pixels)


def test_name_and_sizes_are_attributes(tokenizer: Tokenizer):
    assert TOKENIZERS.keys() >= {tokenizer.name} and len(tokenizer.sha256) == 64
    rows, columns = tokenizer.grid
    assert (rows * tokenizer.stride, columns * tokenizer.stride) == (tokenizer.config.resolution,) * 2
    assert not tokenizer.training and not any(p.requires_grad for p in tokenizer.parameters())
    assert {p.dtype for p in tokenizer.parameters()} == {torch.float32}


def test_encoding_gives_one_token_per_position_and_is_deterministic(tokenizer: Tokenizer, pixels: Tensor, ids: Tensor):
    assert ids.shape == (2, 6) and ids.dtype == torch.int64
    assert ids.min() >= 0 and ids.max() < tokenizer.vocab_size <= 2**16, "a token table stores ids in 16 bits"
    state = torch.random.get_rng_state()
    assert torch.equal(tokenizer.encode(pixels), ids)
    assert torch.equal(torch.random.get_rng_state(), state), "encoding must not use the global random numbers"


def test_decoding_gives_an_image_of_the_same_size(tokenizer: Tokenizer, pixels: Tensor, ids: Tensor):
    decoded = tokenizer.decode(ids, (2, 3))
    assert decoded.shape == pixels.shape and decoded.dtype == torch.float32
    assert decoded.min() >= 0 and decoded.max() <= 1 and decoded.isfinite().all()
    assert tokenizer.decode(ids[:, :4]).shape == (2, 3, 2 * tokenizer.stride, 2 * tokenizer.stride)  # a square grid


def test_an_image_does_not_depend_on_the_rest_of_the_batch(tokenizer: Tokenizer, pixels: Tensor, ids: Tensor):
    assert torch.equal(tokenizer.encode(pixels[1:]), ids[1:])
    assert torch.allclose(tokenizer.decode(ids[1:], (2, 3)), tokenizer.decode(ids, (2, 3))[1:], atol=1e-5)


def test_bad_input_is_one_message(tokenizer: Tokenizer, ids: Tensor):
    stride = tokenizer.stride
    for pixels in (
        torch.rand(3, stride, stride),
        torch.rand(1, 1, stride, stride),
        torch.rand(1, 3, stride + 1, stride),
    ):
        with pytest.raises(ValueError, match=r"pixels must be|multiples of"):
            tokenizer.encode(pixels)
    for bad in (torch.full_like(ids, tokenizer.vocab_size), torch.full_like(ids, -1)):
        with pytest.raises(ValueError, match=rf"0\.\.{tokenizer.vocab_size - 1}"):
            tokenizer.decode(bad, (2, 3))
    with pytest.raises(ValueError, match="grid"):
        tokenizer.decode(ids, (3, 3))


def test_it_is_the_same_tokenizer_after_save_and_load(tokenizer: Tokenizer, pixels: Tensor, ids: Tensor, tmp_path):
    file = tmp_path / "weights.safetensors"
    digest = tokenizers.save(tokenizer, file)
    again = tokenizers.load(tokenizer.name, weights=file)
    file.unlink()  # up to 390 MB
    assert (again.sha256, again.name, again.grid) == (digest, tokenizer.name, tokenizer.grid)
    assert digest == tokenizer.sha256 and torch.equal(again.encode(pixels), ids)
