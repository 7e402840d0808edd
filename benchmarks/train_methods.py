"""Part of benchmarks/train.py: time and memory of a training step, method by method."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from train_bench import Bench, Variant, bare_step, in_turns, network_and_optimizer, rows

from emage.data.token_table import Batch
from emage.methods import METHODS
from emage.model.device_support import check_precision, matmul_rate, set_precision
from emage.training.estimate import memory_and_disk, parameters_and_flops
from emage.utils.errors import InputError


def reason_to_skip(variant: Variant, device: torch.device) -> str | None:
    """Return why a variant cannot be measured on the device; None if it can."""
    if device.type != "cuda" and variant != Variant("float32", False):
        return "compared only on GPUs"
    try:
        check_precision(variant.precision, device)
    except InputError as error:
        return str(error)
    return None


def measure(variant: Variant, bench: Bench) -> dict[str, Any]:
    """Return the measurements of each method, the matmul rate and the batch size."""
    before = torch.get_float32_matmul_precision()
    forward = set_precision(variant.precision, bench.device)
    try:
        found: dict[str, Any] = {"micro_batch_size": bench.config.optim.batch_size}
        found["matmul_flops_per_s"] = matmul_rate(bench.device, variant.precision)
        found["methods"] = speed(variant, forward, bench, found["matmul_flops_per_s"])
        if bench.device.type == "cuda" and bench.settings.memory and not variant.compiled:
            for method, values in found["methods"].items():
                values |= memory_of(method, forward, bench)
        return found
    finally:
        torch.set_float32_matmul_precision(before)


def speed(variant: Variant, forward: AbstractContextManager, bench: Bench, peak: float) -> dict[str, dict[str, Any]]:
    """Time the methods on the same rows, in turns. All but the causal one train the same network."""
    batch = rows(bench.config.optim.batch_size, bench.tokens)
    networks = {
        causal: network_and_optimizer(bench, causal, variant.compiled) for causal in causalities(bench.settings.methods)
    }
    steps = {
        method: bare_step(method, *networks[METHODS[method].CAUSAL], bench.config, forward)
        for method in bench.settings.methods
    }
    times = in_turns({name: lambda step=step: step(batch) for name, step in steps.items()}, bench)
    found: dict[str, dict[str, Any]] = {}
    for method, seconds in times.items():
        network, _ = networks[METHODS[method].CAUSAL]
        flops = parameters_and_flops.flops_per_sample(network, method) * len(batch.uid) / seconds  # type: ignore[arg-type]
        found[method] = {
            "ms": seconds * 1e3,
            "tokens_per_s": batch.y.numel() / seconds,
            "flops_per_s": flops,
            "share_of_matmul": flops / peak,
            "ratio_to_iterative1": seconds / times["iterative1"] if "iterative1" in times else None,
        }
    return found


def causalities(methods: Sequence[str]) -> set[bool]:
    """Return whether the networks of these methods are causal: False, True or both."""
    return {METHODS[method].CAUSAL for method in methods}


def memory_of(method: str, forward: AbstractContextManager, bench: Bench) -> dict[str, Any]:
    """Measure the memory per image and the largest micro-batch, next to the estimate of dry_run."""
    network, optimizer = network_and_optimizer(bench, METHODS[method].CAUSAL)
    step = bare_step(method, network, optimizer, bench.config, forward)
    half = max(1, bench.config.optim.batch_size // 2)
    step(rows(1, bench.tokens))  # allocates AdamW's state
    small, large = (peak_bytes(step, rows(size, bench.tokens), bench.device) for size in (half, 2 * half))
    precision = "bfloat16" if isinstance(forward, torch.autocast) else "float32"
    return {
        "peak_bytes": large,
        "bytes_a_picture": (large - small) / half,
        "planned_activation_bytes": memory_and_disk.activation_bytes(network, precision),
        "largest_micro_batch": largest(lambda size: fits(step, rows(size, bench.tokens)), start=2 * half),
    }


def peak_bytes(step: Callable[[Batch], None], batch: Batch, device: torch.device) -> int:
    """Return the peak of GPU memory during a training step."""
    torch.cuda.reset_peak_memory_stats(device)
    step(batch)
    return torch.cuda.max_memory_allocated(device)


def fits(step: Callable[[Batch], None], batch: Batch) -> bool:
    """Return whether a training step fits into GPU memory."""
    torch.cuda.empty_cache()
    try:
        step(batch)
    except torch.OutOfMemoryError:
        return False
    return True


def largest(works: Callable[[int], bool], start: int) -> int:
    """Return the largest size for which `works` is True, within 3 %: double from `start`, then bisect."""
    good, bad = 0, start
    while works(bad):
        good, bad = bad, 2 * bad
    while bad - good > max(1, good // 32):
        middle = (good + bad) // 2
        good, bad = (middle, bad) if works(middle) else (good, middle)
    return good
