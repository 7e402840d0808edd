"""A model whose images can be worked out by hand: one colour, by prompt, seed, steps and inpainting_input.

Some prompts misbehave. It travels to replicas by value, so it imports what it needs itself.
"""

import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from emage.config import SamplingConfig
from emage.utils.errors import InputError

HEIGHT, WIDTH, TOKENS = 16, 24, 96


def colour(prompt: str, seed: int, steps: int, inpainting_input: Any = None) -> tuple[int, int, int]:
    code = zlib.crc32(f"{prompt} {seed} {steps} {inpainting_input}".encode())
    return code & 255, code >> 8 & 255, code >> 16 & 255


class FakePass:
    def __init__(self, step: int, num_steps: int, colours: list[tuple[int, int, int]]):
        self.step, self.num_steps, self.colours = step, num_steps, colours

    def wait(self) -> None:
        """It is never ahead."""

    def fraction_unmasked(self) -> list[float]:
        return [self.step / self.num_steps] * len(self.colours)

    def images(self, rows: Sequence[int] | None = None) -> list[Image.Image]:
        """After the last pass the colours themselves, before it a grey that grows."""
        grey = 255 * self.step // self.num_steps
        colours = self.colours if self.step == self.num_steps else [(grey, grey, grey)] * len(self.colours)
        return [Image.new("RGB", (WIDTH, HEIGHT), colours[i]) for i in rows or range(len(colours))]

    def likelihood(self) -> list[float]:
        return [float(red) for red, _, _ in self.colours]  # the reddest is the best


class FakePipe:
    """Notes the prompts and steps of every batch. "slow" takes 0.3 s a pass; "fails" raises; "breaks" for good."""

    size, grid = (HEIGHT, WIDTH), (8, 12)

    def __init__(self, step: int = 0, go: threading.Event | None = None):
        self.batches: list[tuple[list[str], int]] = []
        self.passed = 0
        self.metadata: dict[str, Any] = {"step": step, "method": "iterative3", "prompts": ["a red bus"]}
        self._go, self._broken = go, False

    def settings(self, **sampling: Any) -> SamplingConfig:
        if sampling.get("steps", 1) < 1:
            raise InputError(f"steps must lie in 1..{TOKENS}, not {sampling['steps']}")
        return replace(SamplingConfig(steps=4), **sampling)

    def num_truncated(self, prompts: Sequence[str]) -> int:
        return sum(len(prompt) > 77 for prompt in prompts)

    def prepare_inpainting(self, image: Image.Image, mask: Image.Image) -> Any:
        """The corners: of the image a colour, of the mask how white."""
        if mask.size != image.size:
            raise InputError("the mask has another size")
        return image.getpixel((0, 0)), mask.getpixel((0, 0)), mask.getpixel((mask.width - 1, 0))

    def generation_steps(
        self, prompts: Sequence[str], seeds: Sequence[int], settings: SamplingConfig, inpainting_inputs: Sequence[Any]
    ) -> Iterator[FakePass]:
        if list(prompts) != ["a warm-up"]:
            self.batches.append((list(prompts), settings.steps))
        if self._go:
            assert self._go.wait(30)
        self._broken = self._broken or "breaks" in prompts
        if "fails" in prompts or self._broken:
            raise RuntimeError("CUDA error: device-side assert triggered")
        if "large" in prompts and len(prompts) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        colours = [colour(p, s, settings.steps, c) for p, s, c in zip(prompts, seeds, inpainting_inputs, strict=True)]
        for step in range(1, settings.steps + 1):
            time.sleep({"slow": 0.3, "busy": 0.05}.get(prompts[0], 0.001))
            self.passed += 1
            yield FakePass(step, settings.steps, colours)
