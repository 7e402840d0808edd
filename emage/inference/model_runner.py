"""How a model draws on its device: in which arithmetic, compiled or not, recorded or not.

It turns captions into a decoder's context, tokens into the next tokens, tokens into bytes. What is asked for, and by
whom, is emage.inference.pipeline's business.
"""

import contextlib
import copy
import os
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from emage.config import CheckpointConfig, Dtype, SamplingConfig
from emage.inference import inpainting
from emage.inference.cuda_graphs import CudaGraphCache, Steps, Tensors, Work
from emage.inference.guidance import GuidedDecoder
from emage.inference.inpainting import InpaintingInput
from emage.methods import METHODS
from emage.methods.base import Step
from emage.methods.masking import BufferedRng, ImageRng
from emage.model import device_support
from emage.model.transformer import Context, Network
from emage.utils.errors import InputError
from emage.utils.torch_compile import compiled

PAINTED_AT_ONCE = 8  # images that a GPU decodes together


class ModelRunner:
    """A network and its tokenizer on a device."""

    def __init__(self, network: Network, tokenizer: Any, config: CheckpointConfig, dtype: Dtype):
        self._network, self._tokenizer, self._config = network, tokenizer, config
        self._dtype: Dtype = dtype
        self.device = network.decoder.head.weight.device
        # Whether a GPU's work is recorded when it comes for the second time (inference.cuda_graphs). It then reads the
        # weights where they lie now: a network whose modules are exchanged afterwards must not be recorded.
        self.use_cuda_graphs = True
        self.graphs = CudaGraphCache(self.device)
        self._fused = False
        self._painter = _painter(tokenizer, dtype, self.device)

    def compile(self) -> None:
        """From here on passes, draws and images are fused. Raises InputError where there is no compiler."""
        if not any(map(shutil.which, (os.environ.get("CXX", ""), "g++", "clang++", "gcc", "clang"))):
            raise InputError(
                "there is no C++ compiler to compile with (g++, clang++): install one, or do without compile"
            )
        self._fused, self.graphs = True, CudaGraphCache(self.device)

    @contextlib.contextmanager
    def inference_context(self) -> Iterator[None]:
        """In here numbers are multiplied as this model does it, and fused where it is compiled."""
        with device_support.arithmetic(self._dtype, self.device), compiled(self._fused):
            yield

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Context:
        """What the decoder reads. Candidates of one prompt, whose text is read once, share it."""
        different = list(dict.fromkeys(prompts))
        network = self._network
        ids = network.text.tokenize(different)[0].to(self.device, non_blocking=True)
        if network.text.frozen:  # it looks captions up, and waits for the device
            with self.inference_context():
                context = network.encode_text(ids)
        else:

            def work(inputs: Tensors) -> Steps:
                yield tuple(network.encode_text(inputs[0]).tensors)

            context = Context.from_tensors(next(self._run(("read", len(different)), work, (ids,))))
        return context.of([different.index(prompt) for prompt in prompts])

    def tokens(self, canvas: InpaintingInput) -> Tensor:
        """(N,) the tokens of an image of which a part is regenerated, MASK there."""
        with self.inference_context():
            return inpainting.tokens(self._tokenizer, canvas, self.device)

    def steps(self, context: Context, y: Tensor, seeds: Sequence[int], settings: SamplingConfig) -> Iterator[Step]:
        """From what is known (B,N) to whole images, one iteration of the model's method at a time."""
        batch, n = y.shape
        network, method, num_tensors = self._network, METHODS[self._config.method], len(context.tensors)
        num_steps = method.num_steps(settings, n)
        numbers = ImageRng(seeds, self.device).uniform(method.max_random_numbers(settings, n))
        empty = self.encode_text([""] * batch) if settings.guidance else Context([])

        def work(inputs: Tensors) -> Steps:  # knows nothing of this object, which would else never be freed
            y, numbers, *tensors = inputs
            decoder: Any = network.decoder
            if settings.guidance:
                decoder = GuidedDecoder(decoder, Context.from_tensors(tensors[num_tensors:]), settings, num_steps)
            yield from method.generate(
                decoder, Context.from_tensors(tensors[:num_tensors]), y, settings, BufferedRng(numbers)
            )

        inputs = (y, numbers, *context.tensors, *empty.tensors)
        for step in self._run(("passes", batch, settings), work, inputs, num_steps, alike=method.CAUSAL):
            yield Step(*step)

    @torch.no_grad()
    def decode_images(self, y: Tensor) -> list[Image.Image]:
        """The images of tokens (B,N). Raises ValueError for one that the tokenizer does not have."""
        painter, grid = self._painter, self._config.grid

        def work(inputs: Tensors) -> Steps:
            ids = inputs[0]
            pixels = painter.decode_grid(ids.clamp(0, painter.vocab_size - 1).unflatten(1, grid))  # (B,3,H,W)
            wrong = ((ids < 0) | (ids >= painter.vocab_size)).sum()
            yield (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1), wrong

        # On a CPU one at a time: a batched convolution rounds otherwise, and an image must not depend on its
        # neighbours. On a GPU it does already, by the last bits of the network's products.
        at_once = 1 if self.device.type == "cpu" else PAINTED_AT_ONCE
        parts = [next(self._run(("images", len(part)), work, [part])) for part in y.split(at_once)]
        images = torch.cat([part for part, _ in parts]).cpu().numpy()
        if wrong := sum(int(count) for _, count in parts):
            raise ValueError(f"{wrong} tokens are none of the tokenizer's {painter.vocab_size}")
        return [Image.fromarray(image) for image in images]

    def _run(self, kind: tuple, work: Work, inputs: Sequence[Tensor], num_yields: int = 1, alike: bool = False):
        """What `work` yields, in this model's way."""
        steps = self.graphs.run(kind, work, inputs, num_yields, alike) if self.use_cuda_graphs else work(tuple(inputs))
        with contextlib.closing(steps):
            while True:
                with self.inference_context():
                    step = next(steps, None)
                if step is None:
                    return
                yield step


def _painter(tokenizer: Any, dtype: Dtype, device: torch.device) -> Any:
    """The tokenizer that makes images of tokens: on a GPU a copy, laid out for its convolutions."""
    if device.type == "cpu":
        return tokenizer
    precision = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    painter = copy.deepcopy(tokenizer)
    painter.encoder = nn.Identity()
    return painter.to(dtype=precision, memory_format=torch.channels_last)
