"""The schema of a request: OpenAI's parameters, those of other image servers, and our own.

Types and ranges are checked here, without the model. The sampling settings are checked by the model (`check_sampling`
in emage/methods/sampling.py), because the range of `steps` depends on it.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from emage.config import GuidanceSchedule, Revise, SamplingConfig, Schedule, UnmaskingOrder
from emage.config.fields import leaves
from emage.config.model import guidance_of_scale
from emage.serving import limits
from emage.serving.request import MODEL_NAME, Format, GenerationRequest, RequestError

EXAMPLE_PROMPT = "a small red circle above a large blue square"
SAMPLING_SETTINGS = leaves(SamplingConfig)
URL_MODELS = ("dall-e-2", "dall-e-3")  # LangChain's wrapper reads URLs of them and sends no `response_format`
OTHER_NAMES = {"num_inference_steps": "steps", "guidance_scale": "guidance"}  # diffusers' names of our settings
WITHOUT_EFFECT = {  # parameters that cannot change the image, and why
    "quality": "there is one quality",
    "complexity": "images are not planned",
    "style": "write the style into the prompt",
    "moderation": "there are no levels of moderation",
    "input_fidelity": "an edit keeps what is not marked, and regenerates the rest",
    "safety_identifier": "it is not stored",
    "user": "it is not stored",
    "metadata": "it is not stored",
    "frame_count": "it is for animations",
    "frame_duration_ms": "it is for animations",
    "svg": "it is for SVG files",
}


def _sampling(name: str) -> Any:
    """Return the field of a sampling setting, described as in SamplingConfig; null leaves the model's own value."""
    return Field(None, description=SAMPLING_SETTINGS[name].setting.meaning)


def _without_effect(name: str, **bounds: Any) -> Any:
    """Return the field of a parameter that cannot change the image."""
    return Field(None, description=f"Has no effect, and is named in `warnings`: {WITHOUT_EFFECT[name]}.", **bounds)


def _label(name: str) -> Any:
    """Return the field of a text that cannot change the image."""
    return _without_effect(name, max_length=limits.MAX_LABEL_CHARACTERS)


class ImageRequest(BaseModel):
    """The parameters of both image routes: OpenAI's, from `seed` on ours, at the end those of other image servers."""

    model_config = ConfigDict(strict=True, extra="forbid")

    prompt: str = Field(
        min_length=1,
        max_length=limits.MAX_PROMPT_CHARACTERS,
        description="Text to generate from.",
        examples=[EXAMPLE_PROMPT],
    )
    model: str | None = Field(None, description="A name that `GET /v1/models` lists.", examples=[MODEL_NAME])
    n: int | None = Field(
        1, ge=1, le=limits.MAX_IMAGES, description="Number of images. Image i has the seed `seed` + i."
    )
    size: str | None = Field(
        None,
        description="WIDTHxHEIGHT of the model's images, or `auto`. Another size needs `scale`.",
        examples=["auto"],
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        None,
        description="`url`: a data URL with the whole image, because none is stored. null: `b64_json`, but `url` for a "
        "generation whose `model` is dall-e-2 or dall-e-3.",
    )
    output_format: Format | None = Field(None, description="Format of the files; null: png.")
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of a jpeg or webp, 100 the best; null: 95. A png is lossless."
    )
    background: Literal["auto", "opaque"] | None = Field(None, description="Images are opaque.")
    stream: bool | None = Field(None, description="Answer with server-sent events: previews, then the images.")
    partial_images: int | None = Field(
        None,
        ge=0,
        le=limits.MAX_PREVIEWS,
        description="Previews per image in a stream, evenly spread; null: one per decoding step.",
    )
    quality: str | None = _label("quality")
    complexity: str | None = _label("complexity")
    style: str | None = _label("style")
    moderation: str | None = _label("moderation")
    input_fidelity: str | None = _label("input_fidelity")
    safety_identifier: str | None = _label("safety_identifier")
    user: str | None = _label("user")
    metadata: dict[str, Any] | None = _without_effect("metadata")
    frame_count: int | None = _without_effect("frame_count", ge=2, le=16)
    frame_duration_ms: int | None = _without_effect("frame_duration_ms", ge=20, le=655_350)
    svg: dict[str, Any] | None = _without_effect("svg")
    seed: int | None = Field(
        None, ge=-1, le=limits.MAX_SEED, description="The same seed gives the same image; null or -1: random."
    )
    scale: bool | None = Field(
        None, description="Scale the model's image to `size`: it covers it, and is cropped to the centre."
    )
    candidates: int = Field(
        1, ge=1, le=limits.MAX_CANDIDATES, description="Images generated per returned one, which is the best by `rank`."
    )
    rank: Literal["none", "likelihood"] = Field(
        "likelihood", description="How the best candidate is chosen: by the model's likelihood, or simply the first."
    )
    steps: int | None = _sampling("steps")
    schedule: Schedule | None = _sampling("schedule")
    order: UnmaskingOrder | None = _sampling("order")
    temperature: float | None = _sampling("temperature")
    top_k: int | None = _sampling("top_k")
    top_p: float | None = _sampling("top_p")
    gumbel: float | None = _sampling("gumbel")
    revise: Revise | None = _sampling("revise")
    guidance: float | None = _sampling("guidance")
    guidance_schedule: GuidanceSchedule | None = _sampling("guidance_schedule")
    remask: float | None = _sampling("remask")
    negative_prompt: str | None = Field(
        None,
        max_length=limits.MAX_PROMPT_CHARACTERS,
        description="What the image should not show. Read with `guidance_scale` (or `guidance`) above 1 only.",
    )
    num_inference_steps: int | None = Field(None, description="Another name of `steps`.")
    guidance_scale: float | None = Field(
        None, description="Another name of `guidance`, as diffusers defines it: 1 and less turn it off."
    )

    def wants_urls(self, is_edit: bool) -> bool:
        """Return whether the images are data URLs: on request, and by default of generations by URL_MODELS.

        Edits are base64 by default under any name, because Vercel's ai reads them so.
        """
        if self.response_format is None:
            return self.model in URL_MODELS and not is_edit
        return self.response_format == "url"

    def to_generation_request(
        self, seed: int, image: bytes | None = None, mask: bytes | None = None
    ) -> GenerationRequest:
        """Return the request to the model.

        Args:
            seed: The seed to use if the body has none.
            image: An edit's image file.
            mask: An edit's mask file.

        Raises:
            RequestError: A setting is given by both of its names, with different values.
        """
        return GenerationRequest(
            prompt=self.prompt,
            negative_prompt=self.negative_prompt or "",
            n=self.n or 1,
            seed=seed if self.seed in (None, -1) else self.seed,
            candidates=self.candidates,
            rank=self.rank,
            sampling=self._sampling_settings(),
            size=self.size,
            scale=bool(self.scale),
            image=image,
            mask=mask,
            format=self.output_format or "png",
            quality=self.output_compression,
            num_previews=self.partial_images if self.stream else 0,
        )

    def renamed(self, error: RequestError) -> RequestError:
        """Return an error of the model about a setting with the name by which the client sent that setting."""
        for name, own in OTHER_NAMES.items():
            if error.param == own and getattr(self, own) is None and getattr(self, name) is not None:
                message = error.message.replace(f"{own}=", f"{name}=", 1)
                return RequestError(error.code, message, name, error.retry_s)
        return error

    def _sampling_settings(self) -> dict[str, Any]:
        settings = self.model_dump(exclude_none=True, include=set(SAMPLING_SETTINGS))
        for name, own in OTHER_NAMES.items():
            value = getattr(self, name)
            if value is None:
                continue
            if name == "guidance_scale":
                value = guidance_of_scale(value)
            if settings.setdefault(own, value) != value:
                message = f"{name} and {own} are the same setting and differ: send one of them"
                raise RequestError("invalid_value", message, name)
        return settings
