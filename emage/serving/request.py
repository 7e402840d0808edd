"""Requests for images and their results: everything that travels between the processes of an endpoint.

This module imports no PyTorch, because the process that speaks HTTP holds no model.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from emage.config import Rank
from emage.serving.error_codes import ERROR_CODES

MODEL_NAME = "emage"  # in /v1/models, unless `access.model_names` has others

Format = Literal["png", "jpeg", "webp"]


class RequestError(Exception):
    """A request that cannot be fulfilled.

    Args:
        code: A key of `ERROR_CODES`, which gives the HTTP status.
        message: One line for the client: what is wrong and what to do.
        param: The request's field that is at fault.
        retry_s: Seconds until the client may try again, sent as Retry-After; 0: no such header.
    """

    def __init__(self, code: str, message: str, param: str | None = None, retry_s: int = 0):
        super().__init__(code, message, param, retry_s)  # all arguments: an exception is pickled with `args`
        self.code, self.message, self.param, self.retry_s = code, message, param, retry_s
        self.status = ERROR_CODES[code].status


@dataclass(frozen=True)
class GenerationRequest:
    """A request for `n` images of a prompt; image i has the seed `seed + i`."""

    prompt: str
    negative_prompt: str = ""  # what the image should not show; read with guidance above 1
    n: int = 1
    seed: int = 0
    candidates: int = 1  # generated per image; the best by `rank` is returned
    rank: Rank = "likelihood"
    sampling: dict[str, Any] = field(default_factory=dict)  # fields of SamplingConfig that replace the model's own
    size: str | None = None  # WIDTHxHEIGHT; None or auto: that of the model's images, the only one without `scale`
    scale: bool = False  # scale the finished images to `size`
    image: bytes | None = None  # an edit: the image file of which the part that `mask` marks is regenerated
    mask: bytes | None = None
    format: Format = "png"
    quality: int | None = None  # of a jpeg or webp, 0 to 100; None: the default of image_codec.py
    num_previews: int | None = 0  # per image; None: one after every decoding step (MAX_PREVIEWS at most)


@dataclass(frozen=True)
class TokenCounts:
    """The tokens of one image."""

    text: int  # of the prompts that the text encoder read, start and end included
    input_image: int  # of the image that was edited; 0 for a new one
    output_image: int


@dataclass(frozen=True)
class PreviewImage:
    """Image `index` of a request after a decoding step, as a file."""

    index: int
    seed: int
    preview_index: int  # among the previews of this image, from 0
    step: int  # decoding steps done
    steps: int  # decoding steps in all
    unmasked: float  # fraction of the tokens
    size: str  # WIDTHxHEIGHT
    file: bytes
    format: Format


@dataclass(frozen=True)
class GeneratedImage:
    """A finished image as a file, with the seed that generates it again."""

    index: int
    seed: int
    steps: int  # decoding steps it took
    size: str  # WIDTHxHEIGHT
    file: bytes
    format: Format
    prompt_truncated: bool  # the prompt is longer than the text encoder reads
    tokens: TokenCounts
    warnings: tuple[str, ...] = ()  # one line each: what the model did not do that the request asks for
