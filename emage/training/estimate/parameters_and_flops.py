"""Parameters of a run's network and FLOP of its training, counted from the network, built on the meta device.

Letters: B images, N image tokens, S text positions, D width of the decoder.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from emage.config import Method, SamplingConfig, TrainConfig
from emage.methods import METHODS
from emage.model.text import bert, clip
from emage.model.transformer import Network
from emage.training.optimizer import is_matrix

TEXT_LAYERS = {name: size[2] for name, size in (*clip.SIZES.items(), *bert.SIZES.items())}


class TokenSpace(Protocol):
    """Vocabulary and grid of a tokenizer. `schema.TokenizerInfo` and the tokenizers themselves have both."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def grid(self) -> tuple[int, int]: ...


class ParameterCounts(NamedTuple):
    """Numbers in the text encoder and in the decoder, and how many of all are trained."""

    text: int
    decoder: int
    trainable: int

    @property
    def total(self) -> int:
        return self.text + self.decoder


def build_network(config: TrainConfig, tokens: TokenSpace) -> Network:
    """Return the network of a run on the meta device: shapes without memory for weights.

    Raises:
        ValueError: The settings do not describe a network.
    """
    with torch.device("meta"):
        return Network(config.model, tokens.vocab_size, tokens.grid, causal=METHODS[config.method].CAUSAL)


def count_parameters(network: Network) -> ParameterCounts:
    """Count the parameters of text encoder and decoder, and those that are trained."""
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return ParameterCounts(_count(network.text), _count(network.decoder), trainable)


def flops_per_sample(network: Network, method: Method, *, in_warm_start: bool = False) -> int:
    """Return the FLOP of the matrix products that training on one image takes, forward and backward.

    A multiply-add is 2 FLOP. The backward pass costs twice the forward, for the gradients of the weights and of the
    input; a frozen encoder has neither. The first pass of iterative2 and iterative3 is one more forward of the decoder,
    not of the text encoder. Causal attention counts in full, since it is computed with a mask. What a kernel or
    `run.recompute` computes a second time in the backward pass does not count.

    Args:
        network: The network; it may be on the meta device.
        method: The method of the training.
        in_warm_start: Count a step of the warm start, which has no first pass. Methods without a first pass have no
            warm start, and their steps count as always.
    """
    text, keys_values, decoder = _text_flops(network), _keys_values_flops(network), decoder_flops(network)
    if getattr(METHODS[method], "TWO_STREAMS", False):  # such a method has no warm start
        decoder = _two_stream_flops(network)
    frozen = network.text.frozen
    forwards = 4 if METHODS[method].TWO_PASSES and not in_warm_start else 3
    # With a frozen encoder the gradient of the text states is not needed, only that of the keys' and values' weights.
    return forwards * decoder + (2 if frozen else 3) * keys_values + (1 if frozen else 3) * text


def generation_flops(network: Network, method: Method, steps: int) -> int:
    """Return the FLOP of the matrix products that one generated image takes, without the tokenizer's.

    A method with cached keys and values puts each position through the decoder once, as content and, in
    parallel_autoregressive, once more as a query; the others all positions in each of `steps` decoding steps.
    """
    module, n = METHODS[method], network.decoder.grid[0] * network.decoder.grid[1]
    if getattr(module, "TWO_STREAMS", False):
        decoder = _two_stream_flops(network)
    else:
        passes = 1 if module.CAUSAL else module.num_steps(SamplingConfig(steps=steps), n)
        decoder = passes * decoder_flops(network)
    return _text_flops(network) + _keys_values_flops(network) + decoder


def run_flops(config: TrainConfig, network: Network) -> float:
    """Return the FLOP of a whole run: `optim.steps` of `optim.batch_size` images, the warm start counted as such."""
    warm_start = config.objective.warm_start
    warm, full = (flops_per_sample(network, config.method, in_warm_start=flag) for flag in (True, False))
    return config.optim.steps * config.optim.batch_size * (warm_start * warm + (1 - warm_start) * full)


def decoder_flops(network: Network) -> int:
    """Return the FLOP of one forward pass of the decoder on one image, given the text's keys and values."""
    decoder, s = network.decoder, network.text.length
    n, width = decoder.grid[0] * decoder.grid[1], decoder.config.width
    matrices = sum(p.numel() for p in _matrices(decoder)) - sum(kv.numel() for kv in _keys_values_matrices(network))
    return 2 * n * matrices + decoder.config.depth * (_attention_flops(n, n, width) + _attention_flops(n, s, width))


def _two_stream_flops(network: Network) -> int:
    """Return the FLOP of a forward over content and queries of one image (emage/model/group_attention.py)."""
    decoder = network.decoder
    n, width, depth = decoder.grid[0] * decoder.grid[1], decoder.config.width, decoder.config.depth
    head, one_stream = 2 * n * decoder.head.weight.numel(), depth * _attention_flops(n, n, width)
    other = decoder_flops(network) - head - one_stream  # of each stream: all but its self-attention
    return 2 * other + one_stream + depth * _attention_flops(n, 2 * n, width) + head


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _text_flops(network: Network) -> int:
    """Return the FLOP of one forward pass of the text encoder on one caption, in its matrices and its attention."""
    s, width = network.text.length, network.text.width
    matrices = sum(p.numel() for p in _matrices(network.text))
    return 2 * matrices * s + TEXT_LAYERS[network.text.name] * _attention_flops(s, s, width)


def _keys_values_flops(network: Network) -> int:
    """Return the FLOP of one caption's cross-attention keys and values in all layers (Transformer.make_context)."""
    return 2 * network.text.length * sum(kv.numel() for kv in _keys_values_matrices(network))


def _keys_values_matrices(network: Network) -> list[Tensor]:
    """Return the decoder's matrices that multiply text states, not image tokens."""
    return [p for name, p in network.decoder.named_parameters() if name.endswith("cross.kv.weight")]


def _attention_flops(queries: int, keys: int, width: int) -> int:
    """Return the FLOP of queries times keys and of weights times values, over all heads."""
    return 2 * 2 * queries * keys * width


def _matrices(module: nn.Module) -> list[Tensor]:
    """Return the weights of matrix products: all with two dimensions, except embeddings and positions."""
    return [parameter for name, parameter in module.named_parameters() if is_matrix(module, name, parameter)]
