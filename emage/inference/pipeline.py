"""Prompt in, image out: the model as people use it. It knows captions and pixels; masks are the methods' business."""

import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emage.config import CheckpointConfig, Dtype, EvaluateConfig, Rank, SamplingConfig, check_arguments, nearest
from emage.inference import inpainting, ranking
from emage.inference.inpainting import InpaintingInput
from emage.inference.model_runner import ModelRunner
from emage.methods import METHODS
from emage.methods.base import Step
from emage.methods.masking import MASK, ImageRng
from emage.methods.sampling import check_sampling
from emage.model import checkpoint, device_support, hub, model_card
from emage.model.transformer import Context, Network
from emage.utils import image_grid
from emage.utils.errors import InputError


class GenerationStep:
    """A batch of images after one of its iterations: what is known, and what the images would be if it ended here.

    Nothing is computed, and a GPU not waited for, before it is asked for.
    """

    def __init__(self, pipe: "Emage", step: int, num_steps: int, after: Step, context: Context, seeds: Sequence[int]):
        self._pipe, self._after, self._context, self._seeds = pipe, after, context, seeds
        self.step, self.num_steps = step, num_steps  # step is 1..num_steps

    def wait(self) -> None:
        """Until the device has come so far; a GPU is ahead of its results."""
        if self._pipe.device.type == "cuda":
            torch.cuda.current_stream(self._pipe.device).synchronize()

    def fraction_unmasked(self) -> list[float]:
        """Of each image, the share of its tokens that are known."""
        return (self._after.y_obs != MASK).float().mean(1).tolist()

    def images(self, rows: Sequence[int] | None = None) -> list[Image.Image]:
        """The images (of these rows; none: all). After the last pass they are the finished ones."""
        y = self._after.guess
        return self._pipe.images(y if rows is None else y[list(rows)])

    def likelihood(self) -> list[float]:
        """Of each image, how likely the model finds it: nats a token, higher is better (ranking.likelihood)."""
        rng = ImageRng(self._seeds, self._pipe.device)
        network, method = self._pipe.network, self._pipe.config.method
        with self._pipe.runner.inference_context():
            return ranking.likelihood(network, method, self._after.guess, self._context, rng).tolist()


class Emage:
    """A trained model, its tokenizer and its sampling defaults.

    Every image has its own seed: the same prompt, seed and settings give the same image whatever else is in the
    batch. `**sampling` below are fields of SamplingConfig (steps, schedule, order, temperature, top_k, top_p, gumbel,
    revise, guidance, guidance_schedule, remask) over the checkpoint's own.
    """

    def __init__(
        self,
        network: Network,
        tokenizer: Any,
        config: CheckpointConfig,
        metadata: dict[str, Any] | None = None,
        dtype: Dtype | None = None,
    ):
        """`dtype`: how the network computes, whose weights become that; none: as they are."""
        self.dtype = dtype or cast(Dtype, str(network.decoder.head.weight.dtype).removeprefix("torch."))
        self.network = network.eval().to(device_support.weights_dtype(self.dtype))
        self.tokenizer, self.config, self.metadata = tokenizer, config, metadata or {}
        self.runner = ModelRunner(self.network, tokenizer, config, self.dtype)

    # --- Loading and sharing ---

    @classmethod
    def from_pretrained(
        cls,
        path_or_hub_id: str | Path,
        device: str = "auto",
        dtype: Dtype | torch.dtype = "float32",
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
    ) -> "Emage":
        """A checkpoint folder, "demo" (shipped), or an id on the model hub. device auto: cuda where there is one.

        dtype is how the network computes. The tokenizer's decoder joins it in tf32 and bfloat16 on a GPU; it stays in
        float32 elsewhere, and where the network has float16, in which it is not safe.
        The rest is for the hub: a branch, tag or commit; a token for private models; where files are kept; whether to
        use only what is there. A model that is there is loaded without a network as well. Raises InputError.
        """
        device = device_support.choose(device)
        precision: Any = str(dtype).removeprefix("torch.")
        check_arguments(EvaluateConfig, dtype=precision)
        device_support.check_dtype(precision, device)
        folder = hub.find(
            path_or_hub_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        network, tokenizer, config, metadata = checkpoint.load(folder, device)
        return cls(network, tokenizer, config, metadata, precision)

    def save_pretrained(
        self, path: str | Path, *, prompts: Sequence[str] | None = None, dtype: Dtype = "float32"
    ) -> None:
        """Writes a checkpoint folder with a model card (README.md) that shows what the model draws for `prompts`.

        Without prompts they are those that the model was saved with before, training's at first. Places on this
        machine are cut down to file names. The card's license is `metadata["license"]`, or apache-2.0. dtype float16
        makes the file half as large; its numbers are float32 again when it is loaded, rounded.
        """
        metadata = {key: value for key, value in self.metadata.items() if key not in ("emage", "tokenizer", "files")}
        metadata["prompts"] = list(metadata.get("prompts", ()) if prompts is None else prompts)
        config, metadata = _without_folders(self.config, metadata)
        checkpoint.save(path, self.network, self.tokenizer, config, metadata, device_support.weights_dtype(dtype))
        if metadata["prompts"]:
            image_grid.make_grid(self.generate(metadata["prompts"]), metadata["prompts"]).save(
                Path(path) / model_card.SAMPLES
            )
        model_card.write(path, self)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str = "Upload Emage model",
        revision: str | None = None,
        prompts: Sequence[str] | None = None,
    ) -> str:
        """Uploads what `save_pretrained` writes, in one commit, and returns the commit's URL. Raises InputError.

        The repository ("user/name") is made where there is none, and so is the branch `revision`.
        """
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "model"
            self.save_pretrained(folder, prompts=prompts)
            repo_id = hub.create(repo_id, private=private, token=token, revision=revision)
            model_card.write(folder, self, repo_id)
            return hub.upload(folder, repo_id, token=token, commit_message=commit_message, revision=revision)

    @property
    def device(self) -> torch.device:
        return self.network.decoder.head.weight.device

    # --- ModelRunner ---

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        candidates: int = 1,
        rank: Rank = "likelihood",
        ranker: ranking.ClipRanker | None = None,
        batch_size: int = 16,
        **sampling: Any,
    ) -> list[Image.Image]:
        """One image a prompt: the best of `candidates` by `rank`. `seed`: one for all prompts, or one each.

        Candidate 0 has the seed itself, so that candidates=1 gives the first of candidates=4. Raises InputError for
        settings that don't exist or make no sense.
        """
        groups = self.candidates(
            prompts, seed=seed, candidates=candidates, rank=rank, ranker=ranker, batch_size=batch_size, **sampling
        )
        return [max(group, key=lambda pair: pair[1])[0] for group in groups]

    def candidates(
        self,
        prompts: str | Sequence[str],
        *,
        seed: int | Sequence[int] = 0,
        candidates: int = 1,
        rank: Rank = "likelihood",
        ranker: ranking.ClipRanker | None = None,
        batch_size: int = 16,
        **sampling: Any,
    ) -> list[list[tuple[Image.Image, float]]]:
        """For each prompt its candidates as (image, score), in the order of their seeds. rank=none scores 0."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        check_arguments(EvaluateConfig, candidates=candidates, batch_size=batch_size, rank=rank)
        settings, seeds = self.settings(**sampling), _seeds(seed, len(prompts))
        if candidates == 1:
            rank = "none"  # there is nothing to choose from
        if rank == "clip" and ranker is None:
            ranker = ranking.ClipRanker(device=str(self.device))
        self._warn_of_cut(prompts)
        jobs = [
            (prompt, candidate_seed(s, c)) for prompt, s in zip(prompts, seeds, strict=True) for c in range(candidates)
        ]
        drawn: list[tuple[Image.Image, float]] = []
        for i in range(0, len(jobs), batch_size):
            texts, own_seeds = zip(*jobs[i : i + batch_size], strict=True)
            drawn += self._batch(texts, own_seeds, settings, rank, ranker)
        return [drawn[i : i + candidates] for i in range(0, len(drawn), candidates)]

    def stream(self, prompt: str, *, seed: int = 0, **sampling: Any) -> Iterator[Image.Image]:
        """The image after each iteration (Figure 5): the model's guess for every token at that point."""
        settings, seeds = self.settings(**sampling), _seeds(seed, 1)  # checked now, not at the first image
        self._warn_of_cut([prompt])
        return (after.images()[0] for after in self.generation_steps([prompt], seeds, settings))

    def inpaint(
        self, image: Image.Image, mask: Image.Image, prompt: str, *, seed: int = 0, **sampling: Any
    ) -> Image.Image:
        """Draws anew where `mask` is white (above half grey), by cells of the token grid; other tokens stay.

        A cell with any white in it is regenerated. The image is brought to the model's size by a resize and a centre
        crop, the mask with it. Raises InputError for a mask that is black everywhere or of another size.
        """
        settings, seeds = self.settings(**sampling), _seeds(seed, 1)
        canvas = self.prepare_inpainting(image, mask)
        self._warn_of_cut([prompt])
        *_, last = self.generation_steps([prompt], seeds, settings, [canvas])
        return last.images()[0]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of an image in pixels."""
        rows, columns = self.config.grid
        return rows * self.tokenizer.stride, columns * self.tokenizer.stride

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of an image's tokens."""
        return self.config.grid

    def num_truncated(self, prompts: Sequence[str]) -> int:
        """How many prompts are longer than the text encoder reads."""
        return int(self.network.text.tokenize(prompts)[1].sum())

    def settings(self, **sampling: Any) -> SamplingConfig:
        """The checkpoint's sampling settings with some replaced. Raises InputError for one that isn't right."""
        known = [item.name for item in fields(SamplingConfig)]
        for name in sampling:
            if name not in known:
                raise InputError(f"unknown sampling setting {name!r}{nearest(name, known)}")
        settings = replace(self.config.sampling, **sampling)
        check_sampling(settings, self.config.grid[0] * self.config.grid[1])
        return settings

    # --- GenerationStep by pass ---

    def generation_steps(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        settings: SamplingConfig,
        inpainting_inputs: Sequence[InpaintingInput | None] = (),
    ) -> Iterator[GenerationStep]:
        """Draws a batch together, one iteration at a time. What `generate`, `stream` and the endpoint are made of.

        Image i has a prompt, a seed and, where `inpainting_inputs` has one, an image of which a part is regenerated.
        """
        context = self.runner.encode_text(prompts)
        y = self._unknown(len(prompts))
        encoded: dict[int, Tensor] = {}  # candidates of one edit: its image is encoded once
        for i, canvas in enumerate(inpainting_inputs):
            if canvas is not None:
                if id(canvas) not in encoded:
                    encoded[id(canvas)] = self.runner.tokens(canvas)
                y[i] = encoded[id(canvas)]
        num_steps = METHODS[self.config.method].num_steps(settings, y.shape[1])
        for t, after in enumerate(self.runner.steps(context, y, seeds, settings), start=1):
            yield GenerationStep(self, t, num_steps, after, context, seeds)

    def prepare_inpainting(self, image: Image.Image, mask: Image.Image) -> InpaintingInput:
        """What `passes` takes to draw a part of `image` anew, where `mask` is white. Raises InputError."""
        return inpainting.prepare_inpainting(image, mask, self.config.grid, self.tokenizer.stride)

    def images(self, y: Tensor) -> list[Image.Image]:
        """The images of tokens (B,N)."""
        return self.runner.decode_images(y)

    # --- Speed ---

    def compile(self) -> "Emage":
        """Fuses what lies between the matrix products and convolutions (torch.compile); returns itself.

        It takes effect, and a minute or so, with the first images: see `warm_up`. Needs a C++ compiler on a CPU and
        Triton on a GPU. Images stay the same but for rounding. Raises InputError where there is no compiler.
        """
        self.runner.compile()
        return self

    def warm_up(self, batch_sizes: Sequence[int] = (1,), **sampling: Any) -> None:
        """Draws images and throws them away, so that those to come are as fast as all later ones.

        With these settings, in batches of these sizes: what is compiled and recorded, is so for one kind of work each.
        """
        settings = self.settings(**sampling)
        for size in batch_sizes:
            for _ in range(2 if self.device.type == "cuda" else 1):  # the second time it is recorded
                *_, last = self.generation_steps([f"warm-up {i}" for i in range(size)], range(size), settings)
                last.images()

    # --- Parts ---

    def _batch(self, texts, seeds, settings: SamplingConfig, rank: Rank, ranker) -> list[tuple[Image.Image, float]]:
        *_, last = self.generation_steps(texts, seeds, settings)
        images = last.images()
        scores = [0.0] * len(texts)
        if rank == "likelihood":
            scores = last.likelihood()
        elif rank == "clip":
            scores = ranker.score(images, texts).tolist()
        return list(zip(images, scores, strict=True))

    def _warn_of_cut(self, prompts: Sequence[str]) -> None:
        if cut := self.num_truncated(prompts):
            warnings.warn(
                f"{cut} of {len(prompts)} prompts {'is' if cut == 1 else 'are'} longer than the text encoder's "
                f"{self.network.text.length} positions; the rest was not read",
                stacklevel=3,
            )

    def _unknown(self, batch: int) -> Tensor:
        rows, columns = self.config.grid
        return torch.full((batch, rows * columns), MASK, device=self.device)


def _seeds(seed: Any, num_images: int) -> list[int]:
    """One seed an image, from one for all or one each. Raises InputError."""
    seeds = list(seed) if isinstance(seed, Iterable) else [seed] * num_images
    if len(seeds) != num_images:
        raise InputError(f"{len(seeds)} seeds for {num_images} prompts: give one seed, or one a prompt")
    for value in seeds:
        if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < 2**63:
            raise InputError(f"seed must be a whole number from 0 to 2^63 - 1, not {value!r}")
    return [int(value) for value in seeds]


def candidate_seed(seed: int, candidate: int) -> int:
    """The seed of an image's candidate, from 0: the first has the image's own."""
    if candidate == 0:
        return seed
    return int(np.random.SeedSequence([seed, candidate]).generate_state(1, np.uint64)[0] >> 1)


def _without_folders(config: CheckpointConfig, metadata: dict[str, Any]) -> tuple[CheckpointConfig, dict[str, Any]]:
    """Both with file names where they name whole paths: a checkpoint is for others, a disk's layout is not."""
    if config.model.text_weights:
        config = replace(config, model=replace(config.model, text_weights=Path(config.model.text_weights).name))
    if "path" in metadata.get("data", {}):
        metadata = metadata | {"data": metadata["data"] | {"path": Path(metadata["data"]["path"]).name}}
    return config, metadata
