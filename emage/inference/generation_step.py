"""A batch of images after each of its decoding steps: GenerationStep, and the generator that yields them.

Letters: B images, N image tokens.
"""

from collections.abc import Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor

from emage.config import Rank, SamplingConfig
from emage.inference import ranking
from emage.inference.inpainting import InpaintingInput
from emage.inference.model_runner import ModelRunner
from emage.inference.ranking import ClipRanker
from emage.methods import METHODS
from emage.methods.base import Step
from emage.methods.masking import MASK, ImageRng
from emage.model.transformer import Context
from emage.utils.deprecation import renamed_attribute


class GenerationStep:
    """A batch of images after one of its decoding steps.

    Nothing is computed, and nothing waits for a GPU, before one of the methods is called.

    Attributes:
        step: Number of this step, 1 to `num_steps`.
        num_steps: Number of decoding steps in all.
        tokens: The batch's tokens after this step (`y_obs` and `guess` of emage.methods.base.Step).
    """

    def __init__(
        self, runner: ModelRunner, step: int, num_steps: int, tokens: Step, context: Context, seeds: Sequence[int]
    ):
        self.step, self.num_steps, self.tokens = step, num_steps, tokens
        self._runner, self._context, self._seeds = runner, context, seeds

    def wait(self) -> None:
        """Block until the device has finished this step; a GPU works asynchronously."""
        if self._runner.device.type == "cuda":
            torch.cuda.current_stream(self._runner.device).synchronize()

    def fraction_unmasked(self) -> list[float]:
        """Return, for each image, the fraction of its tokens that are unmasked."""
        return (self.tokens.y_obs != MASK).float().mean(1).tolist()

    def images(self, rows: Sequence[int] | None = None) -> list[Image.Image]:
        """Return what the images would be if generation ended here; after the last step, the finished images.

        Args:
            rows: Indices of images of the batch. None: all.
        """
        y = self.tokens.guess
        return self._runner.decode_images(y if rows is None else y[list(rows)])

    def likelihood(self) -> list[float]:
        """Return, for each image, the model's log-likelihood: nats per token, higher is better (ranking.likelihood)."""
        runner = self._runner
        rng = ImageRng(self._seeds, runner.device)
        with runner.inference_context():
            y, method = self.tokens.guess, runner.config.method
            return ranking.likelihood(runner.network, method, y, self._context, rng).tolist()

    def scored_images(
        self, rank: Rank, ranker: ClipRanker | None, prompts: Sequence[str]
    ) -> list[tuple[Image.Image, float]]:
        """Return each image with its score by `rank`: likelihood, clip (needs a `ranker`), or 0 for none."""
        images, scores = self.images(), [0.0] * len(prompts)
        if rank == "likelihood":
            scores = self.likelihood()
        elif rank == "clip":
            assert ranker is not None
            scores = ranker.score(images, prompts).tolist()
        return list(zip(images, scores, strict=True))

    # Old names, for one release.
    known = renamed_attribute("known", "fraction_unmasked")
    pictures = renamed_attribute("pictures", "images")


def generation_steps(
    runner: ModelRunner,
    prompts: Sequence[str],
    seeds: Sequence[int],
    settings: SamplingConfig,
    inpainting_inputs: Sequence[InpaintingInput | None] = (),
    negative_prompts: Sequence[str] = (),
) -> Iterator[GenerationStep]:
    """Generate a batch of images and yield it after every decoding step. `Emage.generation_steps` has the arguments."""
    context = runner.encode_text(prompts)
    y = _start_tokens(runner, len(prompts), inpainting_inputs)
    num_steps = METHODS[runner.config.method].num_steps(settings, y.shape[1])
    is_new = all(given is None for given in inpainting_inputs)
    for t, tokens in enumerate(runner.steps(context, y, seeds, settings, negative_prompts, is_new), start=1):
        yield GenerationStep(runner, t, num_steps, tokens, context, seeds)


def _start_tokens(runner: ModelRunner, batch: int, inpainting_inputs: Sequence[InpaintingInput | None]) -> Tensor:
    """Return the tokens (B,N) before the first step: MASK, except for the tokens that inpainting keeps."""
    rows, columns = runner.config.grid
    y = torch.full((batch, rows * columns), MASK, device=runner.device)
    encoded: dict[int, Tensor] = {}  # an image is encoded once for all of its candidates
    for i, given in enumerate(inpainting_inputs):
        if given is not None:
            if id(given) not in encoded:
                encoded[id(given)] = runner.encode_image(given)
            y[i] = encoded[id(given)]
    return y
