"""The calls that diffusers' pipelines have, over those of `emage.Emage`: for code that is written for diffusers.

    images = pipe("a red circle", num_inference_steps=8, generator=torch.Generator().manual_seed(7)).images

Nothing is generated differently: every argument is one of `Emage.generate` under diffusers' name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Self, Unpack

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm

from emage.config import Dtype, EvaluateConfig, SamplingConfig, check_arguments
from emage.config.fields import MAX_SEED
from emage.config.model import guidance_of_scale
from emage.inference.generation_step import GenerationStep
from emage.inference.pipeline_parts.batches import ImageBatches
from emage.methods.sampling import SamplingArguments
from emage.model import device_support
from emage.utils.errors import InputError

OUTPUT_TYPES = ("pil", "np", "pt")
CALLBACK_TENSORS = ("latents",)
OnStepEnd = Callable[[Any, int, int, dict[str, Tensor]], Any]  # (pipeline, step from 0, steps left, tensors)


class ImagePipelineOutput(NamedTuple):
    """What a call returns."""

    images: list[Image.Image] | np.ndarray | Tensor  # np: (B,H,W,3), pt: (B,3,H,W), both float32 in [0,1]
    seeds: list[int]  # one per image: `Emage.generate` makes the same image of it


class DiffusersCalls(ImageBatches):
    """The part of `emage.Emage` that is called as diffusers' pipelines are."""

    _progress_bar_config: Mapping[str, Any] = MappingProxyType({})

    def __call__(
        self,
        prompt: str | Sequence[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: OnStepEnd | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = CALLBACK_TENSORS,
        *,
        batch_size: int = 16,
        **sampling: Unpack[SamplingArguments],
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images as a pipeline of diffusers does.

        Examples:
            >>> pipe("a red circle", num_inference_steps=8, generator=torch.Generator().manual_seed(7)).images[0]

        Args:
            prompt: One prompt or several.
            height: The model's own, or None.
            width: The model's own, or None.
            num_inference_steps: Decoding steps. None: the checkpoint's own.
            guidance_scale: Classifier-free guidance scale; 1 and less: off. None: the checkpoint's own.
            negative_prompt: What images should not show: one text, or one per prompt. Read with a scale above 1.
            num_images_per_prompt: Images of each prompt, which follow each other in the result.
            generator: The source of the seeds: one for all images, or one per image. A new generator's seed is the seed
                of its first image, as in `generate(seed=...)`; further seeds are drawn from it. None: PyTorch's own.
            output_type: pil (a list of images), np or pt (an array or a tensor of numbers from 0 to 1).
            return_dict: False: a tuple with the images alone.
            callback_on_step_end: Called after each decoding step of each batch with the pipeline, the step from 0, the
                steps that are left, and {"latents": tokens (B,N)}. What it returns is not used.
            callback_on_step_end_tensor_inputs: Names of the tensors that it gets: there is latents alone.
            batch_size: Images that are generated together.
            **sampling: Further settings of `generate`, such as temperature or order.

        Raises:
            InputError: For a value that is not allowed.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        self._check_call(height, width, num_images_per_prompt, output_type)
        check_arguments(EvaluateConfig, batch_size=batch_size)
        if unknown := set(callback_on_step_end_tensor_inputs) - set(CALLBACK_TENSORS):
            raise InputError(f"callback_on_step_end_tensor_inputs: there is no {unknown.pop()!r}, only latents")
        settings = self._call_settings(num_inference_steps, guidance_scale, sampling)
        negative_prompts = self._negative_prompts(negative_prompt, len(prompts), settings)
        self.runner.warn_of_truncated(prompts)
        pairs = [pair for pair in zip(prompts, negative_prompts, strict=True) for _ in range(num_images_per_prompt)]
        seeds = seeds_of(generator, len(pairs))
        images: list[Image.Image] = []
        with self.progress_bar(total=0) as bar:
            for i in range(0, len(pairs), batch_size):
                texts, negatives = zip(*pairs[i : i + batch_size], strict=True)
                steps = self.generation_steps(texts, seeds[i : i + batch_size], settings, negative_prompts=negatives)
                images += self._last(steps, bar, callback_on_step_end).images()
        output = ImagePipelineOutput(_as_type(images, output_type), seeds)
        return output if return_dict else (output.images,)

    def to(
        self,
        *targets: str | torch.device | torch.dtype,
        device: str | torch.device | None = None,
        dtype: Dtype | torch.dtype | None = None,
    ) -> Self:
        """Move the model to a device, a precision or both (in either order, or by name), and return the pipeline.

        Examples:
            >>> pipe = emage.Emage.from_pretrained("demo", device="cpu").to("cuda", torch.bfloat16)

        Raises:
            InputError: If the device or the precision is not available.
        """
        for target in targets:
            if isinstance(target, torch.dtype):
                dtype = target
            else:
                device = target
        place = device_support.choose(str(self.device if device is None else device))
        precision = device_support.dtype_name(self.dtype if dtype is None else dtype)
        device_support.check_dtype(precision, place)
        self._move(place, precision)
        return self

    def set_progress_bar_config(self, **options: Any) -> None:
        """Set options of the calls' progress bar (tqdm's): `disable=True` turns it off."""
        self._progress_bar_config = options

    def progress_bar(self, iterable: Iterable[Any] | None = None, total: int | None = None) -> Any:
        """Return a progress bar with those options."""
        return tqdm(iterable, total=total, **self._progress_bar_config)

    def _call_settings(self, steps: int | None, scale: float | None, sampling: SamplingArguments) -> SamplingConfig:
        """Return the settings of a call. Raises InputError, also for one that is given by both of its names."""
        for given, name, own in ((steps, "num_inference_steps", "steps"), (scale, "guidance_scale", "guidance")):
            if given is not None and sampling.get(own) is not None:
                raise InputError(f"{name} and {own} are the same setting: pass one of them")
        if steps is not None:
            sampling["steps"] = steps
        if scale is not None:
            sampling["guidance"] = guidance_of_scale(scale)
        return self.settings(**sampling)

    def _check_call(self, height: int | None, width: int | None, num_images_per_prompt: int, output_type: str) -> None:
        own = self.size
        if height not in (None, own[0]) or width not in (None, own[1]):
            raise InputError(f"this model generates {own[1]}x{own[0]} (width x height): leave height and width out")
        if not isinstance(num_images_per_prompt, int) or num_images_per_prompt < 1:
            raise InputError(f"num_images_per_prompt={num_images_per_prompt}: must be a whole number of at least 1")
        if output_type not in OUTPUT_TYPES:
            raise InputError(f"output_type={output_type}: must be one of {', '.join(OUTPUT_TYPES)}")

    def _last(self, steps: Iterable[GenerationStep], bar: Any, on_step_end: OnStepEnd | None) -> GenerationStep:
        """Run the steps of a batch and return the last one."""
        step = None
        for step in steps:
            if step.step == 1:
                bar.total += step.num_steps
            bar.update()
            if on_step_end:
                on_step_end(self, step.step - 1, step.num_steps - step.step, {"latents": step.tokens.guess})
        assert step is not None, "a method without decoding steps"
        return step


def seeds_of(generator: torch.Generator | Sequence[torch.Generator] | None, num_images: int) -> list[int]:
    """Return one seed per image, from one generator for all images or from one per image. Raises InputError."""
    if generator is None or isinstance(generator, torch.Generator):
        return [_next_seed(generator or torch.default_generator) for _ in range(num_images)]
    generators: list[Any] = list(generator) if isinstance(generator, Iterable) else [generator]
    if wrong := [item for item in generators if not isinstance(item, torch.Generator)]:
        raise InputError(f"generator must be a torch.Generator, or one per image, not {type(wrong[0]).__name__}")
    if len(generators) != num_images:
        raise InputError(f"{len(generators)} generators for {num_images} images: pass one, or one per image")
    return [_next_seed(item) for item in generators]


def _next_seed(generator: torch.Generator) -> int:
    """Return a seed of 63 bits, and advance the generator: its own seed if it is new, else a number drawn from it."""
    own = generator.initial_seed()
    fresh = torch.Generator(generator.device).manual_seed(own)
    is_new = generator is not torch.default_generator and torch.equal(generator.get_state(), fresh.get_state())
    drawn = int(torch.randint(MAX_SEED, (), generator=generator, device=generator.device))
    return own % (MAX_SEED + 1) if is_new else drawn


def _as_type(images: list[Image.Image], output_type: str) -> list[Image.Image] | np.ndarray | Tensor:
    if output_type == "pil":
        return images
    pixels = np.stack([np.asarray(image) for image in images]).astype(np.float32) / 255  # (B,H,W,3)
    return pixels if output_type == "np" else torch.from_numpy(pixels).permute(0, 3, 1, 2)
