"""What is asked of a model behind a queue, and what comes back: all that travels between the processes of an endpoint.

Light to import: the process that speaks HTTP holds no model.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from emage.config import Rank

MODEL = "emage"  # the one name in /v1/models
BROKE, BROKEN = "model_broke", "model_broken"  # codes of Refusal: over this order, or before it came

Format = Literal["png", "jpeg"]


class Refusal(Exception):
    """What can't be done, in one line; `status` as in HTTP. `param` names what is wrong of an order."""

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, retry_s: int = 0):
        super().__init__(status, message, param, code, retry_s)  # all of it: it travels between processes
        self.status, self.message, self.param, self.code, self.retry_s = status, message, param, code, retry_s


@dataclass(frozen=True)
class Order:
    """What somebody wants drawn: `n` images of a prompt, image i by the seed `seed + i`."""

    prompt: str
    n: int = 1
    seed: int = 0
    candidates: int = 1  # drawn for each image; the best by `rank` is given
    rank: Rank = "likelihood"
    sampling: dict[str, Any] = field(default_factory=dict)  # fields of SamplingConfig over the model's own
    size: str | None = None  # WIDTHxHEIGHT, or auto
    image: bytes | None = None  # an image of which what `mask` marks is regenerated
    mask: bytes | None = None
    format: Format = "png"
    frames: int | None = 0  # previews of each image; None: one after every pass (MAX_FRAMES at most)


@dataclass(frozen=True)
class Preview:
    """Image `index` of an order after a pass, as a file."""

    index: int
    seed: int
    number: int  # of this image's previews, from 0
    step: int
    steps: int
    known: float
    size: str  # WIDTHxHEIGHT
    file: bytes
    format: Format


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image as a file, and the seed that draws it again."""

    index: int
    seed: int
    steps: int  # passes it took
    size: str
    file: bytes
    format: Format
    prompt_cut: bool  # the prompt is longer than the model reads
