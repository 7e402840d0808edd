"""Seconds per image, timed as in the paper (Sec. 4.3): batch size one, one device, text to pixels.

Several images are timed after a few warm-up images; reported are the median, the extremes and the quartiles (IQR).

Letters: B batch, V codes.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from emage.config import Dtype
from emage.inference.pipeline import Emage
from emage.model.transformer import Context


@dataclass(frozen=True)
class LatencyConfig:
    """Settings of one timing. The field names are part of fingerprints on disk (emage.reproduce.experiments)."""

    checkpoint: str
    prompt: str
    sampling: dict[str, Any] = field(default_factory=dict)
    cached: bool = True  # the autoregressive model with its cache of keys and values
    rounds: int = 20  # timed images
    warm_up: int = 3  # images before them
    device: str = "auto"
    dtype: Dtype = "float32"


def measure(config: LatencyConfig) -> dict[str, Any]:
    """Time images of a checkpoint; return `summarize` of the seconds, `device_and_load`, `dtype` and `batch`."""
    pipe = Emage.from_pretrained(config.checkpoint, device=config.device, dtype=config.dtype)
    if not config.cached:
        pipe = without_cache(pipe)
    seeds = iter(range(config.rounds + config.warm_up))
    seconds = time_calls(
        lambda: pipe.generate(config.prompt, seed=next(seeds), **config.sampling),
        rounds=config.rounds,
        warm_up=config.warm_up,
    )
    return {**summarize(seconds), **device_and_load(pipe.device), "dtype": config.dtype, "batch": 1}


def time_calls(work: Callable[[], object], *, rounds: int = 3, warm_up: int = 1) -> list[float]:
    """Return the seconds of each of `rounds` calls of `work`, after `warm_up` untimed calls; synchronizes the GPU."""
    seconds = []
    for _ in range(warm_up + rounds):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[warm_up:]


def summarize(seconds: Sequence[float]) -> dict[str, float | int]:
    """Return median, extremes, quartiles, their distance (IQR) and the number of images."""
    lower, median, upper = np.percentile(seconds, (25, 50, 75)).tolist()
    return {
        "median": median,
        "min": min(seconds),
        "max": max(seconds),
        "lower": lower,
        "upper": upper,
        "iqr": upper - lower,
        "pictures": len(seconds),
    }


def device_and_load(device: torch.device) -> dict[str, Any]:
    """Return the name of the GPU; for a CPU the number of threads and the machine's load in the last minute."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    load = {"load": os.getloadavg()[0]} if hasattr(os, "getloadavg") else {}
    return {"device": f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores", **load}


# --- Without the cache ------------------------------------------------------------------------------------------------


class UncachedDecoder(nn.Module):
    """An autoregressive decoder without its cache: each token takes a forward pass over all tokens so far."""

    def __init__(self, decoder: Any):
        super().__init__()
        self.decoder = decoder

    @property
    def head(self) -> nn.Linear:
        return self.decoder.head

    def make_context(self, text: Tensor) -> Context:
        return self.decoder.make_context(text)

    def new_cache(self, batch: int, n: int) -> list[Tensor]:
        """Return an empty list, to which `forward` adds the tokens so far."""
        return []

    def forward(self, last: Tensor, context: Context, cache: list[Tensor]) -> Tensor:
        """Return the logits (B, 1, V) of the next token after the newest token `last` (B, 1)."""
        cache.append(last.clone())
        return self.decoder(torch.cat(cache, dim=1), context)[:, -1:]


def without_cache(pipe: Emage) -> Emage:
    """Switch off the cache of keys and values. The pipeline is changed in place and returned."""
    pipe.network.decoder = UncachedDecoder(pipe.network.decoder)  # type: ignore[assignment]
    pipe.runner.use_cuda_graphs = False  # the shapes of its tensors change with every token, so no CUDA graph fits
    return pipe
