"""The pipeline `Emage`: text to image. It handles prompts and images; masking and tokens are in emage/methods."""

from collections.abc import Iterator, Sequence
from typing import Never, Unpack

from PIL import Image

from emage.config import EvaluateConfig, Rank, check_arguments
from emage.config.model import GuidanceSchedule, Revise, Schedule, UnmaskingOrder
from emage.inference import ranking
from emage.inference.pipeline_parts.diffusers_calls import DiffusersCalls
from emage.inference.pipeline_parts.pretrained import PretrainedMixin
from emage.inference.seeds import candidate_seed, check_seeds
from emage.methods.sampling import SamplingArguments, sampling_arguments


class Emage(DiffusersCalls, PretrainedMixin):
    """A trained model with its tokenizer and its sampling settings: text to image.

    An image depends on prompt, seed and settings, not on its batch (on a GPU up to rounding, which was not measured).

    Examples:
        >>> pipe = emage.Emage.from_pretrained("demo")
        >>> pipe.generate("a small red circle above a large blue square", seed=7)[0].save("image.png")

    Attributes:
        metadata: The checkpoint's manifest: step, training settings, scores, ...
        runner: Runs the network on its device (`runner.use_cuda_graphs = False` turns CUDA graphs off).
    """

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        seed: int | Sequence[int] = 0,
        candidates: int = 1,
        rank: Rank = "likelihood",
        ranker: ranking.ClipRanker | None = None,
        batch_size: int = 16,
        steps: int | None = None,
        schedule: Schedule | None = None,
        order: UnmaskingOrder | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        gumbel: float | None = None,
        revise: Revise | None = None,
        guidance: float | None = None,
        guidance_schedule: GuidanceSchedule | None = None,
        remask: float | None = None,
        **unknown: Never,
    ) -> list[Image.Image]:
        """Generate one image per prompt, in their order: the best of `candidates` by `rank`.

        Examples:
            >>> images = pipe.generate(["a red circle", "a blue square"], seed=[7, 8], steps=8, temperature=0.9)

        Args:
            prompts: One prompt or several.
            negative_prompt: What images should not show: one text for all prompts, or one per prompt ("" for none).
                Read with `guidance` above 1 only.
            seed: One seed for all prompts, or one per prompt; 0 to 2^63 - 1. Default: 0.
            candidates: Images per prompt, of which the best is returned; at least 1. Candidate 0 has the seed itself.
            rank: How the best is chosen: likelihood (by the model), clip (by CLIP similarity), or none (the first).
            ranker: The CLIP model of rank=clip. None: OpenAI's ViT-L/14, downloaded once.
            batch_size: Images that are generated together; at least 1. Default: 16.
            steps: Decoding steps, 1 to the number of tokens. None (also below): the checkpoint's own setting.
            schedule: How many tokens each step unmasks: cosine, linear, square, cubic or sqrt.
            order: Which positions are unmasked first: confidence (most probable), random or halton (evenly spread).
            temperature: Of token sampling, 0 to 100; 0 takes the most probable token.
            top_k: Sample among this many of the most probable tokens; 0: all.
            top_p: Sample among the most probable tokens up to this probability, 1e-6 to 1; 1: all.
            gumbel: Noise on the confidence of positions, 0 to 1000, lowered linearly to 0 at the last step.
            revise: How iterative3 rewrites unmasked tokens: argmax (most probable) or sample.
            guidance: Classifier-free guidance scale, 0 to 100; 0: off. Needs training with caption dropout.
            guidance_schedule: constant, or linear: rising from 1 (no guidance) to `guidance` at the last step.
            remask: Fraction of the unmasked tokens, the least probable, to mask again at each step; 0 to 0.99.

        Raises:
            InputError: For an argument that does not exist or whose value is not allowed.
        """
        sampling = sampling_arguments(locals())
        groups = self.candidates(
            prompts,
            negative_prompt=negative_prompt,
            seed=seed,
            candidates=candidates,
            rank=rank,
            ranker=ranker,
            batch_size=batch_size,
            **sampling,
        )
        return [max(group, key=lambda pair: pair[1])[0] for group in groups]

    def candidates(
        self,
        prompts: str | Sequence[str],
        *,
        negative_prompt: str | Sequence[str] | None = None,
        seed: int | Sequence[int] = 0,
        candidates: int = 1,
        rank: Rank = "likelihood",
        ranker: ranking.ClipRanker | None = None,
        batch_size: int = 16,
        **sampling: Unpack[SamplingArguments],
    ) -> list[list[tuple[Image.Image, float]]]:
        """Generate all candidates of each prompt. The arguments are those of `generate`.

        Examples:
            >>> [pairs] = pipe.candidates("a red circle", candidates=4, seed=7)
            >>> image, score = max(pairs, key=lambda pair: pair[1])

        Returns:
            For each prompt its pairs (image, score), in the order of the candidates; a higher score is better. All
            scores are 0 with rank=none, or if there is one candidate.
        """
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        check_arguments(EvaluateConfig, candidates=candidates, batch_size=batch_size, rank=rank)
        settings, seeds = self.settings(**sampling), check_seeds(seed, len(prompts))
        negative_prompts = self._negative_prompts(negative_prompt, len(prompts), settings)
        if candidates == 1:
            rank = "none"  # there is nothing to choose from
        if rank == "clip" and ranker is None:
            ranker = ranking.ClipRanker(device=str(self.device))
        self.runner.warn_of_truncated(prompts)
        inputs = [
            (prompt, candidate_seed(s, c), negative)
            for prompt, s, negative in zip(prompts, seeds, negative_prompts, strict=True)
            for c in range(candidates)
        ]
        scored: list[tuple[Image.Image, float]] = []
        for i in range(0, len(inputs), batch_size):
            texts, own_seeds, negatives = zip(*inputs[i : i + batch_size], strict=True)
            *_, last = self.generation_steps(texts, own_seeds, settings, negative_prompts=negatives)
            scored += last.scored_images(rank, ranker, texts)
        return [scored[i : i + candidates] for i in range(0, len(scored), candidates)]

    def stream(
        self,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        seed: int = 0,
        steps: int | None = None,
        schedule: Schedule | None = None,
        order: UnmaskingOrder | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        gumbel: float | None = None,
        revise: Revise | None = None,
        guidance: float | None = None,
        guidance_schedule: GuidanceSchedule | None = None,
        remask: float | None = None,
        **unknown: Never,
    ) -> Iterator[Image.Image]:
        """Generate one image and yield it after each decoding step (paper, Figure 5): the model's guess of all tokens.

        Examples:
            >>> for image in pipe.stream("a red circle", seed=7, steps=8): image.show()

        Args:
            prompt: The prompt.
            negative_prompt: What the image should not show. Read with `guidance` above 1 only.
            seed: 0 to 2^63 - 1. Default: 0.
            steps: Decoding steps, 1 to the number of tokens. None (also below): the checkpoint's own setting.
            schedule: How many tokens each step unmasks: cosine, linear, square, cubic or sqrt.
            order: Which positions are unmasked first: confidence (most probable), random or halton (evenly spread).
            temperature: Of token sampling, 0 to 100; 0 takes the most probable token.
            top_k: Sample among this many of the most probable tokens; 0: all.
            top_p: Sample among the most probable tokens up to this probability, 1e-6 to 1; 1: all.
            gumbel: Noise on the confidence of positions, 0 to 1000, lowered linearly to 0 at the last step.
            revise: How iterative3 rewrites unmasked tokens: argmax (most probable) or sample.
            guidance: Classifier-free guidance scale, 0 to 100; 0: off. Needs training with caption dropout.
            guidance_schedule: constant, or linear: rising from 1 (no guidance) to `guidance` at the last step.
            remask: Fraction of the unmasked tokens, the least probable, to mask again at each step; 0 to 0.99.

        Raises:
            InputError: As for `generate`, before the first image.
        """
        settings, seeds = self.settings(**sampling_arguments(locals())), check_seeds(seed, 1)
        negative = self._negative_prompts(negative_prompt, 1, settings)
        self.runner.warn_of_truncated([prompt])
        passed = self.generation_steps([prompt], seeds, settings, negative_prompts=negative)
        return (step.images()[0] for step in passed)

    def inpaint(
        self,
        image: Image.Image,
        mask: Image.Image,
        prompt: str,
        *,
        negative_prompt: str | None = None,
        seed: int = 0,
        steps: int | None = None,
        schedule: Schedule | None = None,
        order: UnmaskingOrder | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        gumbel: float | None = None,
        revise: Revise | None = None,
        guidance: float | None = None,
        guidance_schedule: GuidanceSchedule | None = None,
        remask: float | None = None,
        **unknown: Never,
    ) -> Image.Image:
        """Regenerate the part of an image where `mask` is white. The other tokens stay.

        Examples:
            >>> mask = PIL.Image.new("L", image.size); mask.paste(255, (0, 0, 32, 64))
            >>> edited = pipe.inpaint(image, mask, "a large green cross", seed=7)

        Args:
            image: Transparent parts become white; resized and centre-cropped to the model's size, the mask with it.
            mask: Of the same size as `image`; a token of which any pixel is white (above half grey) is regenerated.
            prompt: Caption of the whole image.
            negative_prompt: What the image should not show. Read with `guidance` above 1 only.
            seed: 0 to 2^63 - 1. Default: 0.
            steps: Decoding steps, 1 to the number of tokens. None (also below): the checkpoint's own setting.
            schedule: How many tokens each step unmasks: cosine, linear, square, cubic or sqrt.
            order: Which positions are unmasked first: confidence (most probable), random or halton (evenly spread).
            temperature: Of token sampling, 0 to 100; 0 takes the most probable token.
            top_k: Sample among this many of the most probable tokens; 0: all.
            top_p: Sample among the most probable tokens up to this probability, 1e-6 to 1; 1: all.
            gumbel: Noise on the confidence of positions, 0 to 1000, lowered linearly to 0 at the last step.
            revise: How iterative3 rewrites unmasked tokens: argmax (most probable) or sample.
            guidance: Classifier-free guidance scale, 0 to 100; 0: off. Needs training with caption dropout.
            guidance_schedule: constant, or linear: rising from 1 (no guidance) to `guidance` at the last step.
            remask: Fraction of the unmasked tokens, the least probable, to mask again at each step; 0 to 0.99.

        Raises:
            InputError: As for `generate`, and for a mask of another size, or that is black in the centre.
        """
        settings, seeds = self.settings(**sampling_arguments(locals())), check_seeds(seed, 1)
        given = self.prepare_inpainting(image, mask)
        negative = self._negative_prompts(negative_prompt, 1, settings)
        self.runner.warn_of_truncated([prompt])
        *_, last = self.generation_steps([prompt], seeds, settings, [given], negative)
        return last.images()[0]
