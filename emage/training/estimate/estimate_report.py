"""The text that `dry_run=true` prints: one line per quantity of the run."""

from emage.config import TrainConfig
from emage.methods import METHODS
from emage.model.transformer import Network
from emage.training.estimate.gpus import ASSUMED_MATMUL_FRACTION, ASSUMED_MFU, GIB, GPUS
from emage.training.estimate.memory_and_disk import (
    RESERVED_BYTES,
    checkpoint_sizes,
    gpu_memory,
    largest_micro_batch,
)
from emage.training.estimate.parameters_and_flops import (
    TokenSpace,
    build_network,
    count_parameters,
    decoder_flops,
    flops_per_sample,
    run_flops,
)
from emage.training.loop import accumulation


def describe(config: TrainConfig, tokens: TokenSpace, num_rows: int | None = None) -> str:
    """Return the plan of a run as text.

    Args:
        config: The run's settings.
        tokens: Vocabulary and grid of the tokenizer.
        num_rows: Rows of the token table, if known.

    Raises:
        ValueError: The settings do not describe a network.
    """
    network = build_network(config, tokens)
    lines = {
        **_method_lines(config, network),
        **_batch_lines(config),
        **_memory_lines(config, network),
        **_work_lines(config, network),
        **_data_lines(config, num_rows),
        **_disk_lines(config, network),
    }
    return "\n".join(f"{name:<22}{line}" for name, line in lines.items())


def rows_per_rank(batch_size: int, ranks: int) -> list[int]:
    """Return how many rows of a step of B rows each rank r of W gets: those from B r // W up to B (r + 1) // W."""
    return [batch_size * (rank + 1) // ranks - batch_size * rank // ranks for rank in range(ranks)]


def _method_lines(config: TrainConfig, network: Network) -> dict[str, str]:
    count, model = count_parameters(network), config.model
    rows, columns = network.decoder.grid
    warm = f", the first {config.objective.warm_start:.0%} of the steps as iterative1"
    warm = warm if METHODS[config.method].TWO_PASSES and config.objective.warm_start else ""
    return {
        "method": f"{config.method}, {config.objective.mask_schedule} masks{warm}",
        "images": f"{rows} x {columns} tokens of {network.decoder.vocab_size:,}",
        "parameters": f"{_short(count.trainable)} trained of {_short(count.total)}: text encoder {model.text} "
        f"{_short(count.text)}, decoder {_short(count.decoder)}",
    }


def _micro_batches(config: TrainConfig) -> tuple[int, int]:
    """Return a rank's micro-batches per step and the rows of the largest; `loop.micro_batches` makes them equal."""
    count = accumulation(config.optim, config.run.num_workers)
    return count, -(-max(rows_per_rank(config.optim.batch_size, config.run.num_workers)) // count)


def _batch_lines(config: TrainConfig) -> dict[str, str]:
    run, optim = config.run, config.optim
    rows = rows_per_rank(optim.batch_size, run.num_workers)
    per_worker = f"{max(rows)}" if min(rows) == max(rows) else f"{min(rows)} or {max(rows)}"
    kind = "GPU" if run.use_gpu else "CPU worker"
    count, micro_batch = _micro_batches(config)
    return {
        "workers": f"{_counted(run.num_workers, kind)}, ZeRO stage {run.zero_stage}, {run.precision}",
        "batch": f"{optim.batch_size:,} images per step: {per_worker} per {kind}, in {count} x {micro_batch} "
        "(accumulation x micro-batch)",
    }


def _memory_lines(config: TrainConfig, network: Network) -> dict[str, str]:
    _, micro_batch = _micro_batches(config)
    needed = gpu_memory(config, network, micro_batch)
    parts = [f"{name.replace('_', ' ')} {_gib(size)}" for name, size in needed._asdict().items() if size]
    lines = {
        "memory, estimated": f"{_gib(needed.total)} per worker at micro-batch {micro_batch}: {', '.join(parts)}",
    }
    if not config.run.use_gpu:
        return lines
    gpu = GPUS[config.run.precision]
    return lines | {f"{gpu.name} {size} GB": _fits(config, network, needed.total, size) for size in gpu.memories}


def _fits(config: TrainConfig, network: Network, needed: int, size: int) -> str:
    largest = largest_micro_batch(config, network, size * GIB)
    if needed + RESERVED_BYTES <= size * GIB:
        return f"fits; the largest micro-batch is about {largest}"
    if largest:
        return f"does not fit: lower optim.micro_batch_size to {largest}"
    return "does not fit, not even one image: more workers with run.zero_stage=2, or a larger GPU"


def _work_lines(config: TrainConfig, network: Network) -> dict[str, str]:
    optim = config.optim
    sample, run = flops_per_sample(network, config.method), run_flops(config, network)
    lines = {
        "work": f"{sample:.2e} FLOP per image, {sample * optim.batch_size:.2e} per step, {run:.2e} in all "
        f"({optim.steps:,} steps)"
    }
    if not config.run.use_gpu:
        return lines | {"time": "not estimated for CPUs: let a few steps run"}
    gpu = GPUS[config.run.precision]
    if config.run.recompute:
        run += optim.steps * optim.batch_size * decoder_flops(network)
    days = run / (gpu.assumed_flops_per_s * config.run.num_workers) / 86_400
    return lines | {
        "time": f"{days:.3g} days on {_counted(config.run.num_workers, gpu.name)}, assuming mfu={ASSUMED_MFU:g} of the "
        f"{gpu.peak * ASSUMED_MATMUL_FRACTION / 1e12:.3g} TFLOP/s of a large matrix product (assumed: "
        f"{ASSUMED_MATMUL_FRACTION:.0%} of the data sheet's {gpu.peak / 1e12:g})"
    }


def _data_lines(config: TrainConfig, num_rows: int | None) -> dict[str, str]:
    samples = config.optim.steps * config.optim.batch_size
    if num_rows is None:
        return {"data": f"{samples:,} training samples"}
    return {"data": f"{samples:,} training samples from {num_rows:,} rows: {samples / num_rows:.3g} epochs"}


def _disk_lines(config: TrainConfig, network: Network) -> dict[str, str]:
    size = checkpoint_sizes(config, network)
    return {
        "disk": f"{_gib(size.resume)} per checkpoint for resuming, {size.kept} kept at the end: "
        f"{_gib(size.resume * size.kept)}, and one more while it is saved; the model for use {_gib(size.model)}"
    }


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _short(count: int) -> str:
    return f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.1f}k"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GB" if size >= GIB / 10 else f"{size / 2**20:.1f} MB"
