"""The network and the tokenizer on a device: in which precision, compiled or not, with CUDA graphs or not.

The runner encodes text, runs the method's decoding steps and decodes tokens to images. Seeds, candidates and ranking
are chosen in emage/inference/pipeline.py.

Letters: B images, N image tokens, H W image in pixels.
"""

import contextlib
import copy
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from emage.config import CheckpointConfig, Dtype, SamplingConfig
from emage.inference import inpainting
from emage.inference.cuda_graphs import CudaGraphCache, Outputs, Tensors, Work
from emage.inference.guidance import GuidedDecoder
from emage.inference.inpainting import InpaintingInput
from emage.methods import METHODS
from emage.methods.base import Step
from emage.methods.masking import BufferedRng, ImageRng
from emage.model import device_support
from emage.model.transformer import Context, Network
from emage.tokenizers import Tokenizer
from emage.utils.deprecation import renamed_attribute
from emage.utils.errors import InputError
from emage.utils.torch_compile import compiled

DECODE_BATCH = 8  # images that a GPU decodes together


class ModelRunner:
    """A network and its tokenizer on a device.

    Attributes:
        use_cuda_graphs: Capture a GPU's work the second time that it is run (inference/cuda_graphs.py). Graphs read
            the weights at their present addresses: set it to False before you replace modules.
        is_compiled: `compile()` was called.
    """

    def __init__(self, network: Network, tokenizer: Tokenizer, config: CheckpointConfig, dtype: Dtype):
        self.network, self.config = network, config
        self._tokenizer = tokenizer
        self._dtype: Dtype = dtype
        self.device = network.decoder.head.weight.device
        self.use_cuda_graphs = True
        self.graphs = CudaGraphCache(self.device)
        self.is_compiled = False
        self._image_decoder = _image_decoder(tokenizer, dtype, self.device)

    def compile(self) -> None:
        """Run forward passes, sampling and image decoding compiled from now on.

        Raises:
            InputError: If there is no C++ compiler.
        """
        if not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "gcc", "clang"))):
            raise InputError(
                "there is no C++ compiler to compile with (g++, clang++): install one, or do without compile"
            )
        self.is_compiled, self.graphs = True, CudaGraphCache(self.device)

    @contextlib.contextmanager
    def inference_context(self) -> Iterator[None]:
        """Compute in this runner's precision, and compiled after `compile()`."""
        with device_support.arithmetic(self._dtype, self.device), compiled(self.is_compiled):
            yield

    def num_truncated(self, prompts: Sequence[str]) -> int:
        """Return how many prompts are longer than the text encoder reads."""
        return int(self.network.text.tokenize(prompts)[1].sum())

    def count_text_tokens(self, prompts: Sequence[str]) -> list[tuple[int, bool]]:
        """Return how many tokens of each prompt the text encoder reads, start and end included, and if it is longer."""
        ids, truncated = self.network.text.tokenize(prompts)
        counts = (ids.flip(1).cumsum(1) > 0).sum(1)  # 0 pads after the end, and may be a token before it
        return list(zip(counts.tolist(), truncated.tolist(), strict=True))

    def warn_of_truncated(self, prompts: Sequence[str], kind: str = "prompts") -> None:
        """Warn of prompts that are longer than the text encoder reads. The warning names the caller's caller."""
        if count := self.num_truncated(prompts):
            warnings.warn(
                f"{count} of {len(prompts)} {kind} {'is' if count == 1 else 'are'} longer than the text encoder's "
                f"{self.network.text.length} positions; the rest was not read",
                stacklevel=3,
            )

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Context:
        """Return the decoder's context. Equal prompts, such as those of candidates, are encoded once."""
        different = list(dict.fromkeys(prompts))
        network = self.network
        ids = network.text.tokenize(different)[0].to(self.device, non_blocking=True)
        if network.text.frozen:  # it looks captions up in a cache on the host, which a graph cannot do
            with self.inference_context():
                context = network.encode_text(ids)
        else:

            def work(inputs: Tensors) -> Outputs:
                yield tuple(network.encode_text(inputs[0]).tensors)

            context = Context.from_tensors(next(self._run(("text", len(different)), work, (ids,))))
        return context.select([different.index(prompt) for prompt in prompts])

    def encode_image(self, given: InpaintingInput) -> Tensor:
        """Return the tokens (N,) of an image that is inpainted, MASK where it is regenerated."""
        with self.inference_context():
            return inpainting.encode(self._tokenizer, given, self.device)

    def steps(
        self,
        context: Context,
        y: Tensor,
        seeds: Sequence[int],
        settings: SamplingConfig,
        negative_prompts: Sequence[str] = (),
        is_new: bool = False,
    ) -> Iterator[Step]:
        """Run the model's method: from the tokens `y` (B,N), MASK where masked, to whole images, step by step.

        `negative_prompts`: one per image ("" for none) or none at all. `is_new`: no token of any image is given.
        """
        batch, n = y.shape
        network, method, num_tensors = self.network, METHODS[self.config.method], len(context.tensors)
        generate = getattr(method, "generate_new", method.generate) if is_new else method.generate
        num_steps = method.num_steps(settings, n)
        numbers = ImageRng(seeds, self.device).uniform(method.max_random_numbers(settings, n))
        if not (negative_prompts and settings.reads_negative_prompts):
            negative_prompts = [""] * batch
        negative = self.encode_text(negative_prompts) if settings.guidance else Context([])

        def work(inputs: Tensors) -> Outputs:  # does not refer to self, which could then never be freed
            y, numbers, *tensors = inputs
            decoder: Any = network.decoder
            if settings.guidance:
                decoder = GuidedDecoder(decoder, Context.from_tensors(tensors[num_tensors:]), settings, num_steps)
            rng = BufferedRng(numbers)
            yield from generate(decoder, Context.from_tensors(tensors[:num_tensors]), y, settings, rng)

        inputs = (y, numbers, *context.tensors, *negative.tensors)
        for step in self._run(
            ("steps", batch, settings, is_new), work, inputs, num_steps, same_every_step=method.CAUSAL
        ):
            yield Step(*step)

    @torch.no_grad()
    def decode_images(self, y: Tensor) -> list[Image.Image]:
        """Decode tokens (B,N) to images.

        Raises:
            ValueError: If a token is not one of the tokenizer's.
        """
        decoder, grid = self._image_decoder, self.config.grid

        def work(inputs: Tensors) -> Outputs:
            ids = inputs[0]
            pixels = decoder.decode_grid(ids.clamp(0, decoder.vocab_size - 1).unflatten(1, grid))  # (B,3,H,W)
            num_wrong = ((ids < 0) | (ids >= decoder.vocab_size)).sum()
            yield (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1), num_wrong

        # On a CPU one at a time: a batched convolution rounds differently, and an image must not depend on the rest of
        # its batch. On a GPU it depends on it anyway, by rounding in the network's matrix products.
        batch_size = 1 if self.device.type == "cpu" else DECODE_BATCH
        outputs = [next(self._run(("images", len(part)), work, [part])) for part in y.split(batch_size)]
        images = torch.cat([image for image, _ in outputs]).cpu().numpy()
        if num_wrong := sum(int(count) for _, count in outputs):
            raise ValueError(f"{num_wrong} tokens are not among the tokenizer's {decoder.vocab_size}")
        return [Image.fromarray(image) for image in images]

    def _run(
        self, key: tuple, work: Work, inputs: Sequence[Tensor], num_yields: int = 1, same_every_step: bool = False
    ) -> Iterator[Any]:
        """Yield what `work` yields, run in this runner's context, through a CUDA graph if one can be used."""
        if self.use_cuda_graphs:
            outputs = self.graphs.run(key, work, inputs, num_yields, same_every_step)
        else:
            outputs = work(tuple(inputs))
        with contextlib.closing(outputs):
            while True:
                with self.inference_context():
                    output = next(outputs, None)
                if output is None:
                    return
                yield output

    records = renamed_attribute("records", "use_cuda_graphs")  # the old name, for one release


def _image_decoder(tokenizer: Tokenizer, dtype: Dtype, device: torch.device) -> Tokenizer:
    """Return the tokenizer that decodes images: on a GPU a copy in the memory format that convolutions prefer."""
    if device.type == "cpu":
        return tokenizer
    precision = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    decoder: Any = copy.deepcopy(tokenizer)
    decoder.encoder = nn.Identity()
    return decoder.to(dtype=precision, memory_format=torch.channels_last)
