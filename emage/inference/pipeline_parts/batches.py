"""Batches of images, step by step: what the pipeline's calls and the HTTP endpoint both generate with."""

from collections.abc import Iterator, Sequence
from typing import Any, Self, Unpack, cast

import torch
from PIL import Image

from emage.config import CheckpointConfig, Dtype, SamplingConfig
from emage.inference import generation_step, guidance, inpainting
from emage.inference.generation_step import GenerationStep
from emage.inference.inpainting import InpaintingInput
from emage.inference.model_runner import ModelRunner
from emage.methods.sampling import SamplingArguments, sampling_settings
from emage.model import device_support
from emage.model.transformer import Network
from emage.tokenizers import Tokenizer
from emage.utils.deprecation import renamed_attribute


class ImageBatches:
    """The part of `emage.Emage` that holds the model and generates batches of images."""

    def __init__(
        self,
        network: Network,
        tokenizer: Tokenizer,
        config: CheckpointConfig,
        metadata: dict[str, Any] | None = None,
        dtype: Dtype | None = None,
    ):
        """Make a pipeline of its parts; `from_pretrained` loads them. `dtype` None: the network's own precision."""
        self.dtype: Dtype = dtype or cast(Dtype, str(network.decoder.head.weight.dtype).removeprefix("torch."))
        self.network = network.eval().to(device_support.weights_dtype(self.dtype))
        self.tokenizer, self.config, self.metadata = tokenizer, config, metadata or {}
        self.runner = ModelRunner(self.network, tokenizer, config, self.dtype)

    @property
    def device(self) -> torch.device:
        """Device of the network's weights."""
        return self.network.decoder.head.weight.device

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of an image in pixels."""
        rows, columns = self.config.grid
        return rows * self.tokenizer.stride, columns * self.tokenizer.stride

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of an image's tokens."""
        return self.config.grid

    def settings(self, **sampling: Unpack[SamplingArguments]) -> SamplingConfig:
        """Return the checkpoint's sampling settings with some replaced; raise InputError for one not allowed."""
        return sampling_settings(self.config.sampling, sampling, self.grid[0] * self.grid[1])

    def generation_steps(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: SamplingConfig,
        inpainting_inputs: Sequence[InpaintingInput | None] = (),
        negative_prompts: Sequence[str] = (),
    ) -> Iterator[GenerationStep]:
        """Generate a batch of images and yield it after every decoding step.

        `generate`, `stream`, `inpaint` and the HTTP endpoint use this.

        Args:
            prompts: One per image.
            seeds: One per image.
            settings: From `settings(...)`.
            inpainting_inputs: One per image or none at all: from `prepare_inpainting`, or None for a new image.
            negative_prompts: One per image ("" for none) or none at all; read if `settings.guidance` is above 1.
        """
        return generation_step.generation_steps(
            self.runner, prompts, seeds, settings, inpainting_inputs, negative_prompts
        )

    def prepare_inpainting(self, image: Image.Image, mask: Image.Image) -> InpaintingInput:
        """Return the input of `generation_steps` that inpaints. The arguments and errors are those of `inpaint`."""
        return inpainting.prepare_inpainting(image, mask, self.grid, self.tokenizer.stride)

    def count_text_tokens(self, prompts: Sequence[str]) -> list[tuple[int, bool]]:
        """Return how many tokens of each prompt the text encoder reads, start and end included, and if it is longer."""
        return self.runner.count_text_tokens(prompts)

    def num_truncated(self, prompts: Sequence[str]) -> int:
        """Return how many prompts are longer than the text encoder reads."""
        return self.runner.num_truncated(prompts)

    def compile(self) -> Self:
        """Compile network and image decoder with torch.compile, at the first images or `warm_up`; return the pipeline.

        Images stay the same but for rounding. Needs a C++ compiler (else InputError), and on a GPU Triton as well.
        """
        self.runner.compile()
        return self

    def warm_up(self, batch_sizes: Sequence[int] = (1,), **sampling: Unpack[SamplingArguments]) -> None:
        """Generate images and drop them, so that later ones do not wait for compilation and CUDA-graph capture.

        Args:
            batch_sizes: The numbers of images per batch to prepare for; both are done again for each.
            **sampling: The sampling settings to prepare for, as for `generate`.
        """
        settings = self.settings(**sampling)
        for size in batch_sizes:
            for _ in range(2 if self.device.type == "cuda" else 1):  # graphs are captured the second time
                *_, last = self.generation_steps([f"warm-up {i}" for i in range(size)], range(size), settings)
                last.images()

    def _negative_prompts(self, given: Any, num_images: int, settings: SamplingConfig) -> list[str]:
        """Return one negative prompt per image; warn of what is not read. Raises InputError."""
        prompts = guidance.check_negative_prompts(given, num_images, settings)
        if settings.reads_negative_prompts:
            self.runner.warn_of_truncated([prompt for prompt in prompts if prompt], "negative prompts")
        return prompts

    def _move(self, device: str, dtype: Dtype) -> None:
        """Move the weights to a device and a precision, with a new runner: CUDA graphs keep the old addresses."""
        self.dtype = dtype
        self.network.to(device, device_support.weights_dtype(dtype))
        self.tokenizer.to(device)
        before, self.runner = self.runner, ModelRunner(self.network, self.tokenizer, self.config, dtype)
        self.runner.use_cuda_graphs = before.use_cuda_graphs
        if before.is_compiled:
            self.runner.compile()

    # Old names, for one release.
    facts = renamed_attribute("facts", "metadata")
    drawing = renamed_attribute("drawing", "runner")
    passes = renamed_attribute("passes", "generation_steps")
    canvas = renamed_attribute("canvas", "prepare_inpainting")
    num_cut = renamed_attribute("num_cut", "num_truncated")
    pictures = renamed_attribute("pictures", "runner.decode_images")
