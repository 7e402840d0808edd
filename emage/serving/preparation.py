"""What is known of a request before its images are generated: whether the model can fulfil it, its size, its tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from emage.config import SamplingConfig
from emage.serving.image_codec import InpaintingPipeline
from emage.serving.limits import MAX_SCALED_SIDE
from emage.serving.request import GenerationRequest, RequestError, TokenCounts
from emage.utils.errors import InputError

_SIZE = re.compile(r"([1-9]\d{0,4})x([1-9]\d{0,4})", re.ASCII)


class PreparationPipeline(InpaintingPipeline, Protocol):
    """The part of emage.Emage that the checks need."""

    @property
    def size(self) -> tuple[int, int]: ...
    @property
    def grid(self) -> tuple[int, int]: ...
    def settings(self, **sampling: Any) -> SamplingConfig: ...
    def count_text_tokens(self, prompts: Sequence[str]) -> list[tuple[int, bool]]: ...


@dataclass(frozen=True)
class PromptReading:
    """What the text encoder reads of a request's prompts, and what its answers say of that."""

    truncated: bool
    tokens: TokenCounts  # of each image
    warnings: tuple[str, ...]


def check_request(request: GenerationRequest, pipe: PreparationPipeline) -> SamplingConfig:
    """Return the request's sampling settings. Raises RequestError for what the model cannot do."""
    if not request.prompt.strip():
        raise RequestError("invalid_value", "prompt: it is blank", "prompt")
    _check_size(request, pipe)
    try:
        return pipe.settings(**request.sampling)
    except InputError as error:
        param = next((name for name in request.sampling if str(error).startswith(f"{name}=")), None)
        raise RequestError("invalid_value", str(error), param) from None


def _check_size(request: GenerationRequest, pipe: PreparationPipeline) -> None:
    height, width = pipe.size
    if request.size in (None, "auto", f"{width}x{height}"):
        return
    size = requested_size(request)
    if size is None:
        raise RequestError("invalid_value", "size: must be auto or WIDTHxHEIGHT, such as 256x256", "size")
    if not request.scale:
        message = f"size: this model generates {width}x{height}; leave it out, or send scale=true to have them scaled"
        raise RequestError("invalid_value", message, "size")
    if max(size) > MAX_SCALED_SIDE:
        message = f"size: images are scaled to {MAX_SCALED_SIDE} pixels a side at most, not {request.size}"
        raise RequestError("invalid_value", message, "size")


def requested_size(request: GenerationRequest) -> tuple[int, int] | None:
    """Return (width, height) of a request's `size`, None if it has none."""
    match = _SIZE.fullmatch(request.size or "")
    return (int(match[1]), int(match[2])) if match else None


def read_prompts(request: GenerationRequest, pipe: PreparationPipeline, settings: SamplingConfig) -> PromptReading:
    """Return what the text encoder reads of a request's prompt and negative prompt."""
    texts, warnings = {"prompt": request.prompt}, list[str]()  # the prompt is the first
    if request.negative_prompt and settings.reads_negative_prompts:
        texts["negative_prompt"] = request.negative_prompt
    elif request.negative_prompt:
        warnings.append("negative_prompt: has no effect: it is read with guidance_scale (or guidance) above 1 only")
    counts = pipe.count_text_tokens(list(texts.values()))
    for name, (num_read, is_truncated) in zip(texts, counts, strict=True):
        if is_truncated:
            warnings.append(f"{name}: its first {num_read} tokens were read, all that fits")
    num_text, num_image = sum(num_read for num_read, _ in counts), pipe.grid[0] * pipe.grid[1]
    tokens = TokenCounts(num_text, num_image if request.image is not None else 0, num_image)
    return PromptReading(truncated=counts[0][1], tokens=tokens, warnings=tuple(warnings))
