"""Part of benchmarks/generate.py: our models of the paper's size with random weights, and their FLOP.

The cost of a forward pass does not depend on the weights.

Letters: B images, N tokens, V codes.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from emage.config import CheckpointConfig, Dtype, Method, TrainConfig, preset
from emage.data.shapes import sample_held_out_scenes
from emage.inference.pipeline import Emage
from emage.methods import METHODS, parallel_autoregressive
from emage.methods.masking import MASK, BufferedRng, ImageRng
from emage.model.transformer import Network
from emage.tokenizers import TOKENIZERS
from emage.tokenizers.vqgan import VQGAN

PROMPTS = [scene.caption for scene in sample_held_out_scenes(64, seed=0)]
V, GRID = 8192, (32, 32)
N = GRID[0] * GRID[1]
TOKENS_TIMED = 16  # tokens of an autoregressive image that are timed on a CPU: all cost the same
LENGTHS = (1, 256, 512, 1024)  # tokens of the image so far, at which a further token without cache is timed


class Flops(NamedTuple):
    """FLOP per image: multiplications and additions."""

    text: int
    decoder_pass: int
    painting: int  # the tokenizer's decoder; the field names are keys in the results file

    def image(self, passes: int) -> int:
        return self.text + passes * self.decoder_pass + self.painting

    def grouped_image(self, name: str, steps: int) -> int:
        """Return the FLOP of an image by parallel_autoregressive, whose decoding steps have a part of the positions."""
        return self.text + _group_flops(name, steps) + self.painting


def pipes(name: str, device: torch.device, dtype: Dtype) -> dict[Method, Emage]:
    """Return a model for each method; all but the causal one share their weights."""
    configs = {method: checkpoint_config(name, method) for method in METHODS}
    torch.manual_seed(0)
    with torch.device(device):
        tokenizer = VQGAN(TOKENIZERS["vqgan-gumbel-f8-8192"].config).eval()
        networks = {causal: Network(configs["iterative3"].model, V, GRID, causal) for causal in (False, True)}
    return {
        config.method: Emage(networks[METHODS[config.method].CAUSAL], tokenizer, config, dtype=dtype)
        for config in configs.values()
    }


def checkpoint_config(name: str, method: str) -> CheckpointConfig:
    """Return the config of a method's model, trained with a preset's settings."""
    unused = {"data": {"path": "unused"}, "run": {"output": "unused"}}
    return preset(TrainConfig, name, method=method, **unused).checkpoint_config(V, GRID)


def flops(name: str) -> Flops:
    """Count the FLOP of a preset's model, on tensors without data."""
    model = checkpoint_config(name, "iterative3").model
    with torch.device("meta"), torch.no_grad():
        network, tokenizer = Network(model, V, GRID, False).eval(), VQGAN(TOKENIZERS["vqgan-gumbel-f8-8192"].config)
        ids, y = torch.zeros(1, model.text_length, dtype=torch.long), torch.full((1, N), MASK)
        context = network.encode_text(ids)
        works = (
            lambda: network.encode_text(ids),
            lambda: network.decoder(y, context),
            lambda: tokenizer.decode_grid(y.unflatten(1, GRID)),
        )
        return Flops(*(counted(work) for work in works))


def _group_flops(name: str, steps: int) -> int:
    """Count the FLOP of all decoding steps of parallel_autoregressive, on tensors without data."""
    config = checkpoint_config(name, "parallel_autoregressive")
    model, settings = config.model, replace(config.sampling, steps=steps)
    with torch.device("meta"), torch.no_grad():
        network, y = Network(model, V, GRID, False).eval(), torch.full((1, N), MASK)
        context = network.encode_text(torch.zeros(1, model.text_length, dtype=torch.long))
        rng = BufferedRng(torch.zeros(1, parallel_autoregressive.max_random_numbers(settings, N)))
        generate = parallel_autoregressive.generate_new
        return counted(lambda: list(generate(network.decoder, context, y, settings, rng)))


def counted(work: Callable[[], object]) -> int:
    """Return the FLOP of a call."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def image(pipe: Emage, batch: int, steps: int) -> Callable[[], object]:
    """Return the work of generating a batch of images from text."""
    seeds = iter(range(0, 1 << 40, batch))

    def generate() -> object:
        first = next(seeds)
        return pipe.generate(PROMPTS[:batch], seed=range(first, first + batch), batch_size=batch, steps=steps)

    return generate


KERNELS = {  # kind -> pattern of kernel names; the first match counts
    "attention": r"sdpa|fmha|flash|attention",
    "convolutions": r"fprop|cudnn.*conv|implicit_(con|gemm)",
    "matrix products": r"nvjet|gemm|gemv|cutlass|splitK",
    "fused": r"triton",
    "copies": r"Memcpy|Memset|copy",
}


def kernel_ms(work: Callable[[], object]) -> dict[str, float]:
    """Return the milliseconds of the GPU's kernels by kind, and their number."""
    found = dict.fromkeys([*KERNELS, "others"], 0.0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        work()
        torch.cuda.synchronize()
    for event in profile.key_averages():
        kind = next((kind for kind, names in KERNELS.items() if re.search(names, event.key)), "others")
        found[kind] += event.self_device_time_total / 1e3
    return {**found, "number of kernels": sum(event.count for event in profile.key_averages())}


def decoder_pass(pipe: Emage, batch: int) -> Callable[[], object]:
    """Return the work of one forward pass over all tokens to logits, without torch.compile and CUDA graphs."""
    decoder, device = pipe.network.decoder, pipe.device
    y = torch.full((batch, N), MASK, device=device)
    with torch.no_grad():
        context = pipe.network.encode_text(pipe.network.text.tokenize(PROMPTS[:batch])[0].to(device))
    return torch.no_grad()(lambda: decoder(y, context))


def loop_step(pipe: Emage) -> Callable[[], object]:
    """Return the work of the first of 16 decoding steps: a forward pass, sampled tokens, selected positions."""
    method, settings, device = METHODS[pipe.config.method], pipe.settings(), pipe.device
    y, rng = torch.full((1, N), MASK, device=device), ImageRng([0], device)
    with torch.no_grad():
        context = pipe.network.encode_text(pipe.network.text.tokenize(PROMPTS[:1])[0].to(device))
    return lambda: next(method.generate(pipe.network.decoder, context, y, settings, rng))


def some_tokens(pipe: Emage) -> Callable[[], object]:
    """Return the work of TOKENS_TIMED tokens of the autoregressive model with its cache."""

    def generate() -> None:
        steps = pipe.generation_steps(PROMPTS[:1], [0], pipe.settings())
        for _ in range(TOKENS_TIMED):
            next(steps)

    return generate


def uncached_s(pipe: Emage, seconds_of: Callable[[Callable[[], object]], float]) -> float:
    """Return the seconds of N tokens of the autoregressive model without cache: timed at LENGTHS, interpolated."""
    decoder, device = pipe.network.decoder, pipe.device
    with torch.no_grad():
        context = pipe.network.encode_text(pipe.network.text.tokenize(PROMPTS[:1])[0].to(device))
    y = torch.full((1, N), MASK, device=device)

    def token(length: int) -> Callable[[], object]:
        return torch.no_grad()(lambda: decoder(y[:, :length], context))

    return float(np.interp(np.arange(1, N + 1), LENGTHS, [seconds_of(token(length)) for length in LENGTHS]).sum())
