"""Memory of a GPU in a training step and size of the checkpoints.

Weights, gradients and optimizer state are counted; activations and logits are an estimate from shapes.
GB are 2^30 bytes, as on a GPU. Letters: N image tokens, S text positions, D width, M width inside the MLP, V codes.
"""

import math
from typing import NamedTuple

from emage.config import OptimConfig, Precision, TrainConfig
from emage.model.text.state_cache import CACHE_BYTES
from emage.model.transformer import MLP, Network
from emage.training.estimate.gpus import GIB
from emage.training.estimate.parameters_and_flops import TEXT_LAYERS, count_parameters
from emage.training.optimizer import hidden_matrices

FLOAT32_BYTES, BFLOAT16_BYTES = 4, 2
# Assumed for the CUDA context, its libraries' workspaces and the allocator's gaps, which are not counted below.
RESERVED_BYTES = 1.5 * GIB
# Numbers in DeepSpeed's gradient buffer, which ZeRO 1 and 2 fill before they reduce it: a tenth of DeepSpeed's default,
# which would take 2 GB.
REDUCE_BUCKET_SIZE = 50_000_000


class GpuMemory(NamedTuple):
    """Bytes at the peak of a step on the GPU of rank 0, which needs the most."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int  # gradients on their way between GPUs
    average: int  # EMA weights (optim.ema)
    text_states: int  # cached output of a frozen text encoder
    activations: int  # estimated
    logits: int  # estimated

    @property
    def total(self) -> int:
        return sum(self)


def gpu_memory(config: TrainConfig, network: Network, micro_batch: int) -> GpuMemory:
    """Return the memory that a step takes on one GPU, with `micro_batch` images per forward pass.

    Weights and optimizer are float32 (paper, Sec. 4). ZeRO 1 divides the optimizer's moments among the GPUs, ZeRO 2 the
    gradients as well. With either, each GPU holds a float32 copy of its part of the weights in addition to the weights
    themselves, and a gradient buffer.
    """
    stage, gpus, count = config.run.zero_stage, config.run.num_workers, count_parameters(network)
    trained = FLOAT32_BYTES * count.trainable
    return GpuMemory(
        weights=FLOAT32_BYTES * count.total
        + (BFLOAT16_BYTES * count.total if config.run.precision == "bfloat16" else 0),
        gradients=_per_gpu(trained, gpus if stage >= 2 else 1),
        optimizer=_per_gpu(3 * trained, gpus) if stage >= 1 else FLOAT32_BYTES * num_moments(network, config.optim),
        buffers=FLOAT32_BYTES * REDUCE_BUCKET_SIZE if stage >= 1 else 0,
        average=FLOAT32_BYTES * count.total if config.optim.ema else 0,
        text_states=CACHE_BYTES if network.text.frozen else 0,
        activations=micro_batch * activation_bytes(network, config.run.precision, config.run.recompute),
        logits=micro_batch * _logits_bytes(network),
    )


def largest_micro_batch(config: TrainConfig, network: Network, memory_bytes: float) -> int:
    """Return how many images per forward pass fit on a GPU of `memory_bytes`, by the estimate; 0 if not even one."""
    empty, one = (gpu_memory(config, network, micro_batch).total for micro_batch in (0, 1))
    return max(0, int((memory_bytes - RESERVED_BYTES - empty) // (one - empty)))


def activation_bytes(network: Network, precision: Precision, recompute: bool = False) -> int:
    """Return the bytes that are kept for the backward pass per image, estimated from shapes.

    Numbers per block: the inputs of three norms (3ND, float32 under autocast as well), their outputs (3ND), queries,
    keys, values and result of the self-attention (4ND; no N x N weights, which the fused kernel computes again),
    queries and result of the cross-attention (2ND) with its keys and values (2SD), and inside the MLP 4NM for GEGLU
    (both halves, the gate's GELU, the product) or 2NM for GELU. Then the last norm and the log-probabilities, NV. A
    trained text encoder leaves about 20SD per layer.

    Args:
        network: The network; it may be on the meta device.
        precision: The run's precision.
        recompute: Activation checkpointing (`run.recompute`): every block keeps its input and its text's keys and
            values, and one block at a time all of the rest.
    """
    size = BFLOAT16_BYTES if precision == "bfloat16" else FLOAT32_BYTES
    decoder, text = network.decoder, network.text
    n, s, width, mlp = *_lengths(network), decoder.config.width, decoder.blocks[0].mlp
    assert isinstance(mlp, MLP)
    inside = (4 if mlp.gated else 2) * mlp.down.in_features
    block = 3 * n * width * FLOAT32_BYTES + (n * (9 * width + inside) + 2 * s * width) * size
    last = n * width * (FLOAT32_BYTES + size) + n * decoder.vocab_size * FLOAT32_BYTES
    text_layers = 0 if text.frozen else 20 * s * text.width * TEXT_LAYERS[text.name] * size
    kept = n * width * FLOAT32_BYTES + 2 * s * width * size
    blocks = decoder.config.depth * kept + block if recompute else decoder.config.depth * block
    return blocks + last + text_layers


class CheckpointSizes(NamedTuple):
    """Bytes of a checkpoint, for use and for resuming, and how many of the latter remain at the end of the run."""

    model: int
    resume: int
    kept: int


def checkpoint_sizes(config: TrainConfig, network: Network) -> CheckpointSizes:
    """Return the sizes of checkpoints: float32 weights; for resuming, the optimizer's moments and the EMA weights too.

    The ZeRO stage does not matter: checkpoints hold whole tensors.
    """
    count, optim, run = count_parameters(network), config.optim, config.run
    numbers = count.total + num_moments(network, optim) + (count.total if optim.ema else 0)
    saved = {*range(run.checkpoint_every, optim.steps + 1, run.checkpoint_every), optim.steps}
    newest = set(sorted(saved)[-run.keep :])
    multiples = {step for step in saved if run.keep_every and step % run.keep_every == 0}
    return CheckpointSizes(FLOAT32_BYTES * count.total, FLOAT32_BYTES * numbers, len(newest | multiples))


def num_moments(network: Network, optim: OptimConfig) -> int:
    """Return the numbers in the optimizer's state: two per parameter of AdamW's, one per parameter of Muon's."""
    with_one = sum(p.numel() for p in hidden_matrices(network)) if optim.optimizer == "muon" else 0
    return 2 * count_parameters(network).trainable - with_one


def _logits_bytes(network: Network) -> int:
    """Return the bytes per image of logits, their gradient and that of the log-probabilities, NV numbers each."""
    return 3 * _lengths(network)[0] * network.decoder.vocab_size * FLOAT32_BYTES


def _lengths(network: Network) -> tuple[int, int]:
    """Return N and S."""
    return math.prod(network.decoder.grid), network.text.length


def _per_gpu(size: int, gpus: int) -> int:
    return -(-size // gpus)
