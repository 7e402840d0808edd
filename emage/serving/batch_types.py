"""The types of the queue (batcher.py): the model that it needs, its entries, its results and its errors."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from PIL import Image

from emage.config import SamplingConfig


class GenerationStep(Protocol):
    """A batch after a decoding step: the part of emage.inference's GenerationStep that the queue needs."""

    @property
    def step(self) -> int: ...
    @property
    def num_steps(self) -> int: ...
    def wait(self) -> None: ...
    def fraction_unmasked(self) -> list[float]: ...
    def images(self, rows: Sequence[int] | None = None) -> list[Image.Image]: ...
    def likelihood(self) -> list[float]: ...


class BatchPipeline(Protocol):
    """The part of emage.Emage that the queue needs."""

    def settings(self, **sampling: Any) -> SamplingConfig: ...
    def generation_steps(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: SamplingConfig,
        inpainting_inputs: Sequence[Any],
        negative_prompts: Sequence[str],
    ) -> Iterator[GenerationStep]: ...


@dataclass(frozen=True)
class IntermediateImage:
    """An image after decoding step `step` of `steps`, decoded as if generation ended there."""

    step: int
    steps: int
    unmasked: float  # fraction of the tokens
    image: Image.Image


@dataclass(frozen=True)
class FinishedImage:
    """A finished image."""

    image: Image.Image
    score: float  # log-likelihood in nats per token; 0 unless `QueuedImage.scored`
    steps: int  # decoding steps it took


@dataclass(frozen=True, eq=False)
class QueuedImage:
    """One image that is to be generated."""

    pipe: BatchPipeline  # the model it was accepted for; it stays so when another model takes over
    prompt: str
    seed: int
    settings: SamplingConfig
    negative_prompt: str = ""
    inpainting_input: Any = None  # of an edit: what Emage.prepare_inpainting returned; None: a whole image is generated
    scored: bool = False  # the model computes the likelihood of the finished image
    num_previews: int = 0  # spread evenly over the decoding steps before the last
    on_preview: Callable[[IntermediateImage], None] | None = None  # called in the batcher's thread; must not raise

    def fits_with(self, other: "QueuedImage") -> bool:
        """Return whether both can be in one batch."""
        same = (self.settings, self.scored) == (other.settings, other.scored)
        return same and self.pipe is other.pipe

    def is_preview_due(self, step: int, steps: int) -> bool:
        """Return whether a preview is due after this step: 3 previews of 16 steps come after steps 4, 8 and 12."""
        if self.on_preview is None or step == steps:
            return False
        return step * (self.num_previews + 1) // steps > (step - 1) * (self.num_previews + 1) // steps


class QueueEntry(NamedTuple):
    """An image in the queue, with the future that its client waits for."""

    image: QueuedImage
    result: "asyncio.Future[FinishedImage]"
    queued_at: float  # time.monotonic()


@dataclass(frozen=True)
class BatchRecord:
    """Measurements of a batch that has ended."""

    size: int
    waits_s: list[float]  # of each image in the queue
    steps_s: list[float]  # of each decoding step, previews included
    finished: bool  # False: it failed, or every client had cancelled


class GenerationError(RuntimeError):
    """The model failed on a batch. Its own exception is in the log."""


class BrokenModelError(GenerationError):
    """The model will never generate again: the process that holds it must be replaced.

    Args:
        during: True if it broke while it generated this very image, which may therefore be the cause.
    """

    def __init__(self, during: bool):
        super().__init__(during)
        self.during = during


class AllCancelled(Exception):
    """No client waits for any image of the batch any more."""
