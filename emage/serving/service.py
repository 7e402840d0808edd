"""A model behind a queue: an order for images in, images and their previews out. Knows neither HTTP nor Ray.

    service = Service(pipe, Limits(max_batch_size=8))
    images = await service.draw(Order("a red bus", n=2, seed=7))
    async for event in service.stream(Order("a red bus", frames=15)): ...  # Frames, then the Image

An order is checked whole before any of its images joins the queue, so that a bad one can't fail its neighbours. What
can't be done is a Refusal, whose status is HTTP's because every reader knows those.
"""

import asyncio
import io
import itertools
import logging
import math
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from PIL import Image, ImageOps

from emage.config import SamplingConfig
from emage.data.ingest import decode_image
from emage.inference.pipeline import candidate_seed
from emage.serving import batcher
from emage.serving.batcher import Batch, Batcher, BrokenError, DrawingError, Drawn, Frame, Job, warm_up
from emage.serving.request import BROKE, BROKEN, Format, GeneratedImage, Order, Preview, Refusal
from emage.utils.errors import InputError

_log = logging.getLogger(__name__)

MAX_FRAMES = 64  # previews of an image; an autoregressive model passes 1024 times
MAX_UPLOAD_PIXELS = 40_000_000  # of an uploaded image; more is not decoded
SMALL = 128  # pixels a side up to which a preview is a PNG: it is small anyway, and JPEG shows
UNREADABLE = {
    "not_an_image": "it is no image (PNG, JPEG, WebP, GIF, BMP or TIFF)",
    "too_many_pixels": f"more than {MAX_UPLOAD_PIXELS // 10**6} million pixels",
    "too_small": "it has no pixels",
    "truncated": "it is cut off",
}

Safety = Callable[[str, Image.Image | None], str | None]


@dataclass(frozen=True)
class Limits:
    """How a queue is run."""

    max_batch_size: int = 8
    batch_wait_s: float = 0.0
    max_queued: int = 128  # images, beside those being drawn


class Pipe(batcher.Pipe, Protocol):
    """The part of emage.Emage that a service needs, with what its queue does."""

    facts: dict[str, Any]

    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    def num_cut(self, prompts: Sequence[str]) -> int: ...
    def canvas(self, image: Image.Image, mask: Image.Image) -> Any: ...


class Service:
    """Lives in one event loop. Its model may be replaced while it works (`pipe`)."""

    def __init__(
        self,
        pipe: Pipe,
        limits: Limits,
        safety: Safety | None = None,
        observe: Callable[[Batch], None] = lambda batch: None,
    ):
        self.pipe: Any = pipe
        self._limits, self._safety = limits, safety
        self._open = 0  # images that were ordered and are not finished, candidates too
        self._batcher = Batcher(limits.max_batch_size, limits.batch_wait_s, observe)
        self._decoding = asyncio.Semaphore(2)  # uploads at a time: each may take a few hundred MB

    async def warm_up(self) -> None:
        """Draws something: the first image takes longest, and shows whether there will be one."""
        await self._batcher.in_thread(warm_up, self.pipe)

    async def replace(self, pipe: Pipe) -> None:
        """Takes orders for another model, once that has drawn something. What waits is drawn by the one before."""
        await self._batcher.in_thread(warm_up, pipe)
        self.pipe = pipe

    @property
    def broken(self) -> bool:
        """Whether the model will never draw again."""
        return self._batcher.broken

    @property
    def stuck_s(self) -> float:
        """Seconds since the drawing last came a pass further."""
        return self._batcher.stuck_s

    async def describe(self) -> dict[str, Any]:
        """The model, for /v1/models. Raises Refusal where it is broken."""
        if self.broken:
            raise _broken()
        pipe, (height, width) = self.pipe, self.pipe.size
        return {
            "method": pipe.facts.get("method"),
            "step": pipe.facts.get("step"),
            "size": f"{width}x{height}",
            "grid": list(pipe.grid),
            "sampling": asdict(pipe.settings()),
            "examples": pipe.facts.get("prompts", []),
        }

    async def draw(self, order: Order) -> list[GeneratedImage]:
        """The images of an order. Raises Refusal."""
        return [event async for event in self.stream(order) if isinstance(event, GeneratedImage)]

    async def stream(self, order: Order) -> AsyncGenerator[Preview | GeneratedImage, None]:
        """The images of an order and, before each, its previews; those of several come mixed. Raises Refusal.

        Closed early (`aclose`) or cancelled, it stops the drawing between two passes.
        """
        pipe = self.pipe  # of all of the order, whatever takes over meanwhile
        settings = self._check(order, pipe)
        size = order.n * _candidates(order)
        self._check_room(size)
        self._open += size  # at once: whoever comes while this one is read finds its place taken
        tasks: list[asyncio.Task[None]] = []
        try:
            jobs, cut = await self._jobs(order, pipe, settings)
            events: asyncio.Queue[Preview | GeneratedImage | Exception] = asyncio.Queue()
            tasks = [asyncio.create_task(self._image(order, i, jobs, cut, events.put_nowait)) for i in range(order.n)]
            left = order.n
            while left:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                left -= isinstance(event, GeneratedImage)
                yield event
        finally:
            self._open -= size
            for task in tasks:
                task.cancel()

    # --- Checking ---

    def _check(self, order: Order, pipe: Pipe) -> SamplingConfig:
        """The settings to draw with. Raises Refusal for what the model can't do."""
        if self.broken:
            raise _broken()
        if not order.prompt.strip():
            raise Refusal(400, "prompt: it is blank", "prompt", "invalid_value")
        height, width = pipe.size
        if order.size not in (None, "auto", f"{width}x{height}"):
            raise Refusal(400, f"size: this model draws {width}x{height}", "size", "invalid_value")
        try:
            settings = pipe.settings(**order.sampling)
        except InputError as error:
            param = next((name for name in order.sampling if str(error).startswith(name)), None)
            raise Refusal(400, str(error), param, "invalid_value") from None
        return settings

    async def _jobs(self, order: Order, pipe: Pipe, settings: SamplingConfig) -> tuple[list[Job], bool]:
        """A job for every candidate of every image, without its listener; whether the prompt is cut."""
        if self._safety and (reason := await asyncio.to_thread(self._unsafe, order.prompt, None)):
            raise Refusal(400, f"prompt: {reason}", "prompt", "content_policy_violation")
        canvas = None
        if order.image is not None:
            async with self._decoding:
                canvas = await asyncio.to_thread(_canvas, pipe, order)
        cut = await asyncio.to_thread(pipe.num_cut, [order.prompt]) > 0
        scored = order.candidates > 1 and order.rank == "likelihood"
        jobs = [
            Job(pipe, order.prompt, candidate_seed(order.seed + i, c), settings, canvas, scored)
            for i in range(order.n)
            for c in range(_candidates(order))
        ]
        return jobs, cut

    def _check_room(self, size: int) -> None:
        """Raises Refusal for images too many. An order larger than the whole queue is let in while there is none."""
        if self._open and self._open + size > self._limits.max_batch_size + self._limits.max_queued:
            seconds = max(1, math.ceil(self._batcher.backlog_s))
            message = f"{self._open} images are waiting already; try again in {seconds} s"
            raise Refusal(429, message, code="rate_limit_exceeded", retry_s=seconds)

    # --- Drawing ---

    async def _image(self, order: Order, index: int, jobs: list[Job], cut: bool, put: Callable[[Any], None]) -> None:
        """Puts the previews of an image, then the image; or what went wrong."""
        try:
            best = await self._best(order, index, jobs, put)
            file = await asyncio.to_thread(self._finish, order, best.image)
            put(GeneratedImage(index, order.seed + index, best.steps, _size(best.image), file, order.format, cut))
        except BrokenError as error:
            put(_broken(error.began))
        except DrawingError:
            put(Refusal(500, "drawing failed; the server's log says why", code="drawing_failed"))
        except Exception as error:
            put(error)

    async def _best(self, order: Order, index: int, jobs: list[Job], put: Callable[[Any], None]) -> Drawn:
        """Draws the candidates of an image; previews are the first one's."""
        each = _candidates(order)
        first, *others = jobs[each * index : each * (index + 1)]
        frames = MAX_FRAMES if order.frames is None else min(order.frames, MAX_FRAMES)
        if frames:
            first = replace(first, frames=frames, on_frame=self._previewer(order, index, put))
        drawing = [asyncio.ensure_future(self._batcher.draw(job)) for job in (first, *others)]
        try:
            return max(await asyncio.gather(*drawing), key=lambda one: one.score)
        finally:
            for one in drawing:  # where one has failed, nobody waits for the others
                one.cancel()

    def _previewer(self, order: Order, index: int, put: Callable[[Any], None]) -> Callable[[Frame], None]:
        """What the drawing thread calls with each preview. One that isn't safe is left out."""
        loop, numbers = asyncio.get_running_loop(), itertools.count()

        def show(frame: Frame) -> None:
            if self._unsafe(order.prompt, frame.image):
                return
            kind: Format = "png" if max(frame.image.size) <= SMALL else "jpeg"
            file = _file(frame.image, kind)
            progress = (frame.step, frame.steps, frame.known)
            preview = Preview(index, order.seed + index, next(numbers), *progress, _size(frame.image), file, kind)
            loop.call_soon_threadsafe(put, preview)

        return show

    def _finish(self, order: Order, image: Image.Image) -> bytes:
        """The image as a file. Raises Refusal where it isn't safe."""
        if reason := self._unsafe(order.prompt, image):
            raise Refusal(400, f"the image was withheld: {reason}", "prompt", "content_policy_violation")
        return _file(image, order.format)

    def _unsafe(self, prompt: str, image: Image.Image | None) -> str | None:
        """Why the hook refuses. A hook that fails refuses as well: it is there to be on the safe side."""
        if self._safety is None:
            return None
        try:
            return self._safety(prompt, image)
        except Exception:
            _log.exception("the safety hook failed")
            return "the safety check failed"


# --- Parts ------------------------------------------------------------------------------------------------------------


def _broken(began: bool = False) -> Refusal:
    """`began`: the model broke over this order, which had better not be tried for ever."""
    code = BROKE if began else BROKEN
    return Refusal(503, "the model has failed and is being replaced", code=code, retry_s=5)


def _candidates(order: Order) -> int:
    """How many are drawn of each image: where nothing ranks them, the first alone would be given."""
    return 1 if order.rank == "none" else order.candidates


def _canvas(pipe: Pipe, order: Order) -> Any:
    """What an edit begins with. Raises Refusal."""
    assert order.image is not None
    image = _opened("image", order.image)
    if order.mask is None and image.mode != "RGBA":
        raise Refusal(
            400, "mask: it is missing, and the image has no transparent part", "mask", "missing_required_parameter"
        )
    marked = _marked(image if order.mask is None else _opened("mask", order.mask))
    try:
        return pipe.canvas(image.convert("RGB"), marked)
    except InputError as error:
        raise Refusal(400, f"mask: {error}", "mask", "invalid_value") from None


def _opened(name: str, data: bytes) -> Image.Image:
    try:
        return decode_image.opened(data, max_pixels=MAX_UPLOAD_PIXELS)
    except decode_image.ImageError as error:
        raise Refusal(
            400, f"{name}: {UNREADABLE.get(error.reason, 'it can not be decoded')}", name, "invalid_image"
        ) from None


def _marked(mask: Image.Image) -> Image.Image:
    """White where the image is to be regenerated: where the mask is transparent or, if it is so nowhere, white."""
    if mask.mode == "RGBA":
        alpha = mask.getchannel("A")
        if alpha.getextrema() != (255, 255):
            return ImageOps.invert(alpha)
    return mask.convert("L")


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


def _file(image: Image.Image, kind: Format) -> bytes:
    file = io.BytesIO()
    if kind == "png":
        image.save(file, "PNG")
    else:
        image.save(file, "JPEG", quality=decode_image.QUALITY, subsampling=0)
    return file.getvalue()
