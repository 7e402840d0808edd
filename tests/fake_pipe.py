"""A model whose images can be worked out by hand: one colour for each prompt, seed, steps and inpainting input.

Some prompts make it fail. It is pickled by value for replicas, so this file imports all that it needs.
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


class FakeGenerationStep:
    def __init__(self, step: int, num_steps: int, colours: list[tuple[int, int, int]]):
        self.step, self.num_steps, self.colours = step, num_steps, colours

    def wait(self) -> None:
        """Do nothing: there is no device to wait for."""

    def fraction_unmasked(self) -> list[float]:
        return [self.step / self.num_steps] * len(self.colours)

    def images(self, rows: Sequence[int] | None = None) -> list[Image.Image]:
        """Return the colours after the last step, before it a grey that gets lighter."""
        grey = 255 * self.step // self.num_steps
        colours = self.colours if self.step == self.num_steps else [(grey, grey, grey)] * len(self.colours)
        return [Image.new("RGB", (WIDTH, HEIGHT), colours[i]) for i in rows or range(len(colours))]

    def likelihood(self) -> list[float]:
        return [float(red) for red, _, _ in self.colours]  # the reddest is the best


class FakePipe:
    """Remembers prompts and steps of every batch.

    The prompt "slow" takes 0.3 s per step; "fails" raises; "breaks" makes all later batches raise as well.
    """

    size, grid = (HEIGHT, WIDTH), (8, 12)

    def __init__(self, step: int = 0, go: threading.Event | None = None):
        self.batches: list[tuple[list[str], int]] = []
        self.num_steps_done = 0
        self.metadata: dict[str, Any] = {"step": step, "method": "iterative3", "prompts": ["a red bus"]}
        self._go, self._broken = go, False

    def settings(self, **sampling: Any) -> SamplingConfig:
        if not 1 <= sampling.get("steps", 1) <= TOKENS:
            raise InputError(f"steps={sampling['steps']}: must be a whole number from 1 to {TOKENS}")
        return replace(SamplingConfig(steps=4), **sampling)

    def count_text_tokens(self, prompts: Sequence[str]) -> list[tuple[int, bool]]:
        return [(min(len(prompt.split()), 10) + 2, len(prompt) > 77) for prompt in prompts]

    def prepare_inpainting(self, image: Image.Image, mask: Image.Image) -> Any:
        """Return the colour of the image's corner, and the values of two corners of the mask."""
        if mask.size != image.size:
            raise InputError("the mask has another size")
        return image.getpixel((0, 0)), mask.getpixel((0, 0)), mask.getpixel((mask.width - 1, 0))

    def generation_steps(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: SamplingConfig,
        inpainting_inputs: Sequence[Any],
        negative_prompts: Sequence[str],
    ) -> Iterator[FakeGenerationStep]:
        if list(prompts) != ["a warm-up"]:
            self.batches.append((list(prompts), settings.steps))
        if self._go:
            assert self._go.wait(30)
        self._broken = self._broken or "breaks" in prompts
        if "fails" in prompts or self._broken:
            raise RuntimeError("CUDA error: device-side assert triggered")
        if "large" in prompts and len(prompts) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        texts = [f"{p}, not {n}" if n else p for p, n in zip(prompts, negative_prompts, strict=True)]
        colours = [colour(p, s, settings.steps, c) for p, s, c in zip(texts, seeds, inpainting_inputs, strict=True)]
        for step in range(1, settings.steps + 1):
            time.sleep({"slow": 0.3, "busy": 0.05}.get(prompts[0], 0.001))
            self.num_steps_done += 1
            yield FakeGenerationStep(step, settings.steps, colours)
