"""Seconds an image as the paper takes them (Sec. 4.3): batch one, one device, text to pixels.

Of several images after some to warm up: median, extremes and the range of the middle half (IQR).
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
    """What is timed: a checkpoint's images, one after the other."""

    checkpoint: str
    prompt: str
    sampling: dict[str, Any] = field(default_factory=dict)
    cached: bool = True  # of the autoregressive model: with its cache of keys and values
    rounds: int = 20
    warm_up: int = 3
    device: str = "auto"
    dtype: Dtype = "float32"


def of_checkpoint(config: LatencyConfig) -> dict[str, Any]:
    """The seconds of a checkpoint's images, and on what they were taken."""
    pipe = Emage.from_pretrained(config.checkpoint, device=config.device, dtype=config.dtype)
    if not config.cached:
        pipe = uncached(pipe)
    seeds = iter(range(config.rounds + config.warm_up))
    seconds = timed(
        lambda: pipe.generate(config.prompt, seed=next(seeds), **config.sampling),
        rounds=config.rounds,
        warm_up=config.warm_up,
    )
    return {**spread(seconds), **surroundings(pipe.device), "dtype": config.dtype, "batch": 1}


def timed(work: Callable[[], object], *, rounds: int = 3, warm_up: int = 1) -> list[float]:
    """Seconds of each of `rounds` calls of `work`, after `warm_up` that do not count. A GPU is waited for."""
    seconds = []
    for _ in range(warm_up + rounds):
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return seconds[warm_up:]


def spread(seconds: Sequence[float]) -> dict[str, float | int]:
    """Median, extremes, quartiles, the distance of these (IQR), and how many there were."""
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


def surroundings(device: torch.device) -> dict[str, Any]:
    """The device by name; of a CPU the threads, and what else the machine had to do: the load of the last minute."""
    if device.type == "cuda":
        return {"device": torch.cuda.get_device_name(device)}
    load = {"load": os.getloadavg()[0]} if hasattr(os, "getloadavg") else {}
    return {"device": f"{torch.get_num_threads()} of {os.cpu_count()} CPU cores", **load}


# --- Without the cache ------------------------------------------------------------------------------------------------


class Uncached(nn.Module):
    """An autoregressive decoder without its cache: for every token it passes the whole image so far."""

    def __init__(self, decoder: Any):
        super().__init__()
        self.decoder = decoder

    @property
    def head(self) -> nn.Linear:
        return self.decoder.head

    def read(self, text: Tensor) -> Context:
        return self.decoder.read(text)

    def new_cache(self, batch: int, n: int) -> list[Tensor]:
        return []

    def forward(self, last: Tensor, context: Context, cache: list[Tensor]) -> Tensor:
        """(B,1) the newest token -> (B,1,V) logits of the next."""
        cache.append(last.clone())
        return self.decoder(torch.cat(cache, dim=1), context)[:, -1:]


def uncached(pipe: Emage) -> Emage:
    """The same model, to be used without a cache. It shares its weights, and so takes the given one's place."""
    pipe.network.decoder = Uncached(pipe.network.decoder)  # type: ignore[assignment]
    pipe.drawing.records = False  # its tensors grow
    return pipe
