"""What a training run needs, before it starts: parameters, memory of a GPU, FLOP, days, disk (`dry_run=true`).

Counted from the network itself, built without memory; only the activations are an estimate.
GB are 2^30 bytes, as on a GPU. Letters: B images, N image tokens, S text positions, D width, V codes, W GPUs.
"""

import math
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from emage.config import Method, Precision, TrainConfig
from emage.methods import METHODS
from emage.model.text import bert, clip
from emage.model.text.state_cache import CACHE_BYTES
from emage.model.transformer import MLP, Network
from emage.training.loop import accumulation

GIB = 1 << 30
FLOAT32, BFLOAT16 = 4, 2  # bytes a number
TEXT_LAYERS = {name: size[2] for name, size in (*clip.SIZES.items(), *bert.SIZES.items())}

# What a GPU holds beside what is counted: the CUDA context, workspaces of its libraries, the allocator's gaps.
RESERVED = 1.5 * GIB
# Numbers in DeepSpeed's buffer of gradients, which ZeRO 1 and 2 hold while they add them up: a tenth of its default,
# which would take 2 GB.
REDUCE_BUCKET = 50_000_000
# A guess that days are computed with: what well-filled matrix products leave of a data sheet's peak. Measure the MFU.
UTILISATION = 0.4


class Gpu(NamedTuple):
    """A data sheet's line: the name, the peak FLOP/s of dense products, and the memories it is sold with in GiB."""

    name: str
    peak: float
    memories: tuple[int, ...]


GPUS: dict[Precision, Gpu] = {
    "float32": Gpu("V100", 15.7e12, (16, 32)),
    "tf32": Gpu("A100", 156e12, (40, 80)),
    "bfloat16": Gpu("A100", 312e12, (40, 80)),
}


class Tokens(Protocol):
    """What is asked about the tokenizer (schema.TokenizerInfo and the tokenizers themselves have it)."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def grid(self) -> tuple[int, int]: ...


def build(config: TrainConfig, tokens: Tokens) -> Network:
    """The network of a run without memory for its weights (meta device). Raises ValueError as Network does."""
    with torch.device("meta"):
        return Network(config.model, tokens.vocab_size, tokens.grid, causal=METHODS[config.method].CAUSAL)


# --- Parameters -------------------------------------------------------------------------------------------------------


class Parameters(NamedTuple):
    text: int
    decoder: int
    trainable: int

    @property
    def total(self) -> int:
        return self.text + self.decoder


def parameters(network: Network) -> Parameters:
    """How many numbers the text encoder and the decoder have, and how many of all are trained."""
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Parameters(_count(network.text), _count(network.decoder), trainable)


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- Work -------------------------------------------------------------------------------------------------------------


def flops_per_sample(network: Network, method: Method, *, in_warm_start: bool = False) -> int:
    """FLOP of the matrix products that training on one image takes, forward and backward: 2 for a multiply-add.

    mfu = flops_per_sample * samples_per_s / (peak * GPUs). Backward costs twice the forward, for the gradients of the
    weights and of the input; a frozen encoder has none of it. The first pass of #2 and #3 is one more forward of the
    decoder, not of the text, and is left out if `in_warm_start`. Causal attention counts in full, as masks make it;
    what a fused kernel computes again in its backward does not count.
    """
    text, read, decoder = _text_flops(network), _read_flops(network), _decoder_flops(network)
    frozen = network.text.frozen
    passes = 4 if METHODS[method].TWO_PASSES and not in_warm_start else 3
    # With a frozen encoder nobody asks for the gradient of the text states: the keys' and values' weights alone.
    return passes * decoder + (2 if frozen else 3) * read + (1 if frozen else 3) * text


def run_flops(config: TrainConfig, network: Network) -> float:
    """FLOP of the whole run: `optim.steps` of `optim.batch_size` images, a share of them while warming up."""
    warm_start = config.objective.warm_start
    warm, full = (flops_per_sample(network, config.method, in_warm_start=flag) for flag in (True, False))
    return config.optim.steps * config.optim.batch_size * (warm_start * warm + (1 - warm_start) * full)


def _text_flops(network: Network) -> int:
    """One forward of the text encoder on one caption: its matrices at S positions, its attention."""
    s, width = network.text.length, network.text.width
    matrices = sum(p.numel() for p in _matrices(network.text))
    return 2 * matrices * s + TEXT_LAYERS[network.text.name] * _attention_flops(s, s, width)


def _read_flops(network: Network) -> int:
    """Keys and values of one caption for all layers (Transformer.read)."""
    return 2 * network.text.length * sum(kv.numel() for kv in _keys_values_matrices(network))


def _decoder_flops(network: Network) -> int:
    """One forward of the decoder on one image, given the keys and values: matrices at N places, attention, head."""
    decoder, s = network.decoder, network.text.length
    n, width = decoder.grid[0] * decoder.grid[1], decoder.config.width
    matrices = sum(p.numel() for p in _matrices(decoder)) - sum(kv.numel() for kv in _keys_values_matrices(network))
    return 2 * n * matrices + decoder.config.depth * (_attention_flops(n, n, width) + _attention_flops(n, s, width))


def _keys_values_matrices(network: Network) -> list[Tensor]:
    """Those that multiply text states, not image tokens."""
    return [p for name, p in network.decoder.named_parameters() if name.endswith("cross.kv.weight")]


def _attention_flops(queries: int, keys: int, width: int) -> int:
    """Queries times keys, and weights times values, over all heads."""
    return 2 * 2 * queries * keys * width


def _matrices(module: nn.Module) -> list[Tensor]:
    """The weights that are multiplied with: all of two dimensions but tables that are looked up or added."""
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    return [
        p for name, p in module.named_parameters() if p.ndim == 2 and id(p) not in tables and "position" not in name
    ]


# --- Memory of a GPU --------------------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """Bytes on the fullest GPU (rank 0), at the peak of a step."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int  # gradients on their way between GPUs
    average: int  # optim.ema
    text_states: int  # captions that a frozen encoder has read
    activations: int  # an estimate, as is the next
    logits: int

    @property
    def total(self) -> int:
        return sum(self)


def memory(config: TrainConfig, network: Network, micro_batch: int) -> Memory:
    """What one GPU holds in a step with `micro_batch` images a pass. Weights and optimizer are float32 (Sec. 4).

    ZeRO 1 divides AdamW's two moments by the GPUs, ZeRO 2 the gradients as well. Both keep a float32 copy of their
    share of the weights, beside the weights themselves, and a buffer of gradients.
    """
    stage, gpus, count = config.run.zero_stage, config.run.num_workers, parameters(network)
    trained = FLOAT32 * count.trainable
    return Memory(
        weights=FLOAT32 * count.total + (BFLOAT16 * count.total if config.run.precision == "bfloat16" else 0),
        gradients=_share(trained, gpus if stage >= 2 else 1),
        optimizer=_share(3 * trained, gpus) if stage >= 1 else 2 * trained,
        buffers=FLOAT32 * REDUCE_BUCKET if stage >= 1 else 0,
        average=FLOAT32 * count.total if config.optim.ema else 0,
        text_states=CACHE_BYTES if network.text.frozen else 0,
        activations=micro_batch * activation_bytes(network, config.run.precision, config.run.recompute),
        logits=micro_batch * _logits_bytes(network),
    )


def largest_micro_batch(config: TrainConfig, network: Network, memory_bytes: float) -> int:
    """How many images a pass can have on a GPU of `memory_bytes`, by the estimate; 0 where not even one fits."""
    empty, one = (memory(config, network, micro_batch).total for micro_batch in (0, 1))
    return max(0, int((memory_bytes - RESERVED - empty) // (one - empty)))


def activation_bytes(network: Network, precision: Precision, recompute: bool = False) -> int:
    """What one image leaves behind for the backward pass: an estimate from shapes.

    Numbers a block: the inputs of three norms (3ND, float32 under autocast as well), their outputs (3ND), queries,
    keys, values and result of the self-attention (4ND; no N x N weights, which the fused kernel computes anew), queries
    and result of the cross-attention (2ND) with its keys and values (2SD), and inside the MLP of width M 4NM for GEGLU
    (both halves, the gate's GELU, the product) or 2NM for GELU. Then the last norm and the log-probabilities, NV. A
    trained text encoder leaves about 20SD a layer. With `recompute` every block leaves its input and its text's keys
    and values; one block at a time has all of the rest.
    """
    size = BFLOAT16 if precision == "bfloat16" else FLOAT32
    decoder, text = network.decoder, network.text
    n, s, width, mlp = *_lengths(network), decoder.config.width, decoder.blocks[0].mlp
    assert isinstance(mlp, MLP)
    inside = (4 if mlp.gated else 2) * mlp.down.in_features
    block = 3 * n * width * FLOAT32 + (n * (9 * width + inside) + 2 * s * width) * size
    last = n * width * (FLOAT32 + size) + n * decoder.vocab_size * FLOAT32
    read = 0 if text.frozen else 20 * s * text.width * TEXT_LAYERS[text.name] * size
    kept = n * width * FLOAT32 + 2 * s * width * size
    blocks = decoder.config.depth * kept + block if recompute else decoder.config.depth * block
    return blocks + last + read


def _logits_bytes(network: Network) -> int:
    """Per image, NV float32 numbers each: the logits, their gradient and that of the log-probabilities."""
    return 3 * _lengths(network)[0] * network.decoder.vocab_size * FLOAT32


def _lengths(network: Network) -> tuple[int, int]:
    """N and S."""
    return math.prod(network.decoder.grid), network.text.length


def _share(size: int, gpus: int) -> int:
    return -(-size // gpus)


# --- Disk -------------------------------------------------------------------------------------------------------------


class Disk(NamedTuple):
    """Bytes of a checkpoint, for use and for resuming, and how many of the latter stay at the end."""

    model: int
    resume: int
    kept: int


def disk(config: TrainConfig, network: Network) -> Disk:
    """float32 weights; for resuming, at any ZeRO stage, AdamW's moments and the average come on top."""
    count, optim, run = parameters(network), config.optim, config.run
    numbers = count.total + 2 * count.trainable + (count.total if optim.ema else 0)
    saved = {*range(run.checkpoint_every, optim.steps + 1, run.checkpoint_every), optim.steps}
    newest = set(sorted(saved)[-run.keep :])
    multiples = {step for step in saved if run.keep_every and step % run.keep_every == 0}
    return Disk(FLOAT32 * count.total, FLOAT32 * numbers, len(newest | multiples))


# --- The text of dry_run=true -----------------------------------------------------------------------------------------


def describe(config: TrainConfig, tokens: Tokens, num_rows: int | None = None) -> str:
    """The plan in words, a line a fact. `num_rows`: of the token table, where it is known.

    Raises ValueError for settings that describe no network.
    """
    network = build(config, tokens)
    lines = {
        **_method_lines(config, network),
        **_batch_lines(config),
        **_memory_lines(config, network),
        **_work_lines(config, network),
        **_data_lines(config, num_rows),
        **_disk_lines(config, network),
    }
    return "\n".join(f"{name:<22}{line}" for name, line in lines.items())


def _method_lines(config: TrainConfig, network: Network) -> dict[str, str]:
    count, model = parameters(network), config.model
    rows, columns = network.decoder.grid
    warm = f", the first {config.objective.warm_start:.0%} of the steps as iterative1"
    warm = warm if METHODS[config.method].TWO_PASSES and config.objective.warm_start else ""
    return {
        "method": f"{config.method}, {config.objective.mask_schedule} masks{warm}",
        "pictures": f"{rows} x {columns} tokens of {network.decoder.vocab_size:,}",
        "parameters": f"{_short(count.trainable)} trained of {_short(count.total)}: text encoder {model.text} "
        f"{_short(count.text)}, decoder {_short(count.decoder)}",
    }


def rows_per_rank(batch_size: int, ranks: int) -> list[int]:
    """How many rows of a step each rank gets: rank r has the places from B r // W up to B (r + 1) // W."""
    return [batch_size * (rank + 1) // ranks - batch_size * rank // ranks for rank in range(ranks)]


def _passes(config: TrainConfig) -> tuple[int, int]:
    """Accumulation, and images of the largest pass: training.micro_batches makes them equally large."""
    passes = accumulation(config.optim, config.run.num_workers)
    return passes, -(-max(rows_per_rank(config.optim.batch_size, config.run.num_workers)) // passes)


def _batch_lines(config: TrainConfig) -> dict[str, str]:
    run, optim = config.run, config.optim
    rows = rows_per_rank(optim.batch_size, run.num_workers)
    share = f"{max(rows)}" if min(rows) == max(rows) else f"{min(rows)} or {max(rows)}"
    kind = "GPU" if run.use_gpu else "CPU worker"
    passes, micro_batch = _passes(config)
    return {
        "workers": f"{_counted(run.num_workers, kind)}, ZeRO stage {run.zero_stage}, {run.precision}",
        "batch": f"{optim.batch_size:,} images a step: {share} a {kind}, in {passes} x {micro_batch} "
        "(accumulation x micro-batch)",
    }


def _memory_lines(config: TrainConfig, network: Network) -> dict[str, str]:
    _, micro_batch = _passes(config)
    needed = memory(config, network, micro_batch)
    parts = [f"{name.replace('_', ' ')} {_gib(size)}" for name, size in needed._asdict().items() if size]
    lines = {
        "memory, estimated": f"{_gib(needed.total)} a worker at micro-batch {micro_batch}: {', '.join(parts)}",
    }
    if not config.run.use_gpu:
        return lines
    gpu = GPUS[config.run.precision]
    return lines | {f"{gpu.name} {size} GB": _fits(config, network, needed.total, size) for size in gpu.memories}


def _fits(config: TrainConfig, network: Network, needed: int, size: int) -> str:
    most = largest_micro_batch(config, network, size * GIB)
    if needed + RESERVED <= size * GIB:
        return f"fits; the largest micro-batch is about {most}"
    if most:
        return f"does not fit: lower optim.micro_batch_size to {most}"
    return "does not fit, not even one image: more workers with run.zero_stage=2, or a larger GPU"


def _work_lines(config: TrainConfig, network: Network) -> dict[str, str]:
    optim = config.optim
    sample, run = flops_per_sample(network, config.method), run_flops(config, network)
    lines = {
        "work": f"{sample:.2e} FLOP an image, {sample * optim.batch_size:.2e} a step, {run:.2e} the run "
        f"({optim.steps:,} steps)"
    }
    if not config.run.use_gpu:
        return lines | {"time": "not estimated for CPUs: let a few steps run"}
    gpu = GPUS[config.run.precision]
    if config.run.recompute:
        run += optim.steps * optim.batch_size * _decoder_flops(network)
    days = run / (gpu.peak * UTILISATION * config.run.num_workers) / 86_400
    return lines | {
        "time": f"{days:.3g} days on {_counted(config.run.num_workers, gpu.name)} at {UTILISATION:.0%} (assumed) of "
        f"{gpu.peak / 1e12:g} TFLOP/s"
    }


def _data_lines(config: TrainConfig, num_rows: int | None) -> dict[str, str]:
    drawn = config.optim.steps * config.optim.batch_size
    if num_rows is None:
        return {"data": f"{drawn:,} images drawn"}
    return {"data": f"{drawn:,} images drawn from {num_rows:,} rows: {drawn / num_rows:.3g} epochs"}


def _disk_lines(config: TrainConfig, network: Network) -> dict[str, str]:
    size = disk(config, network)
    return {
        "disk": f"{_gib(size.resume)} a checkpoint for resuming, {size.kept} kept at the end: "
        f"{_gib(size.resume * size.kept)}, and one more while it is saved; the model for use {_gib(size.model)}"
    }


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _short(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.1f}k"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GB" if size >= GIB / 10 else f"{size / 2**20:.1f} MB"
