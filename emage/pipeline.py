"""Prompt in, picture out: the model as people use it. It knows captions and pixels; masks are the methods' business."""

import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from numbers import Integral
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from emage import checkpoint, hub, model_card, ranking, sheets
from emage.config import CheckpointConfig, Dtype, Rank, SamplingConfig, Schedule, nearest
from emage.devices import check_device
from emage.errors import InputError
from emage.masking import MASK, PictureRng
from emage.methods import METHODS
from emage.methods.terms import Step
from emage.model import Context, Network


class Emage:
    """A trained model, its tokenizer and its sampling defaults.

    Every picture has its own seed: the same prompt, seed and settings give the same picture whatever else is in the
    batch. `**sampling` below are fields of SamplingConfig (steps, schedule, order, temperature, top_k, top_p, gumbel,
    revise, guidance, guidance_schedule, remask) over the checkpoint's own.
    """

    def __init__(self, network: Network, tokenizer: Any, config: CheckpointConfig, facts: dict[str, Any] | None = None):
        self.network, self.tokenizer, self.config, self.facts = network.eval(), tokenizer, config, facts or {}

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

        bfloat16 and float16 are for the network; the tokenizer stays in float32, where its decoder is safe.
        The rest is for the hub: a branch, tag or commit; a token for private models; where files are kept; whether to
        use only what is there. A model that is there is loaded without a network as well. Raises InputError.
        """
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        check_device(device)
        precision = str(dtype).removeprefix("torch.")
        if precision not in get_args(Dtype):
            raise InputError(f"dtype must be one of {', '.join(get_args(Dtype))}, not {dtype}")
        folder = hub.find(
            path_or_hub_id, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local_files_only
        )
        network, tokenizer, config, facts = checkpoint.load(folder, device)
        return cls(network.to(getattr(torch, precision)), tokenizer, config, facts)

    def save_pretrained(
        self, path: str | Path, *, prompts: Sequence[str] | None = None, dtype: Dtype = "float32"
    ) -> None:
        """Writes a checkpoint folder with a model card (README.md) that shows what the model draws for `prompts`.

        Without prompts they are those that the model was saved with before, training's at first. Places on this
        machine are cut down to file names. The card's license is `facts["license"]`, or apache-2.0. dtype float16 makes
        the file half as large; its numbers are float32 again when it is loaded, rounded.
        """
        facts = {key: value for key, value in self.facts.items() if key not in ("emage", "tokenizer", "files")}
        facts["prompts"] = list(facts.get("prompts", ()) if prompts is None else prompts)
        config, facts = _without_folders(self.config, facts)
        checkpoint.save(path, self.network, self.tokenizer, config, facts, getattr(torch, dtype))
        if facts["prompts"]:
            sheets.sheet(self.generate(facts["prompts"]), facts["prompts"]).save(Path(path) / model_card.SAMPLES)
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

    # --- Drawing ---

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
        """One picture a prompt: the best of `candidates` by `rank`. `seed`: one for all prompts, or one each.

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
        """For each prompt its candidates as (picture, score), in the order of their seeds. rank=none scores 0."""
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        for name, value in {"candidates": candidates, "batch_size": batch_size}.items():
            if value < 1:
                raise InputError(f"{name} must be at least 1, not {value}")
        if rank not in get_args(Rank):
            raise InputError(f"rank must be one of {', '.join(get_args(Rank))}, not {rank!r}")
        settings, seeds = self.settings(**sampling), _seeds(seed, len(prompts))
        if candidates == 1:
            rank = "none"  # there is nothing to choose from
        if rank == "clip" and ranker is None:
            ranker = ranking.ClipRanker(device=str(self.device))
        self._warn_of_cut(prompts)
        jobs = [
            (prompt, _candidate_seed(s, c)) for prompt, s in zip(prompts, seeds, strict=True) for c in range(candidates)
        ]
        drawn: list[tuple[Image.Image, float]] = []
        for i in range(0, len(jobs), batch_size):
            texts, own_seeds = zip(*jobs[i : i + batch_size], strict=True)
            drawn += self._batch(texts, own_seeds, settings, rank, ranker)
        return [drawn[i : i + candidates] for i in range(0, len(drawn), candidates)]

    def stream(self, prompt: str, *, seed: int = 0, **sampling: Any) -> Iterator[Image.Image]:
        """The picture after each iteration (Figure 5): the model's guess for every token at that point."""
        settings, seeds = self.settings(**sampling), _seeds(seed, 1)  # checked now, not at the first picture
        self._warn_of_cut([prompt])
        steps = self._steps(self._read([prompt]), self._unknown(1), seeds, settings)
        return (self._pictures(step.guess)[0] for step in steps)

    def inpaint(
        self, image: Image.Image, mask: Image.Image, prompt: str, *, seed: int = 0, **sampling: Any
    ) -> Image.Image:
        """Draws anew where `mask` is white (above half grey), by cells of the token grid; other tokens stay.

        A cell with any white in it is drawn anew. The picture is brought to the model's size by a resize and a centre
        crop, the mask with it. Raises InputError for a mask that is black everywhere or of another size.
        """
        settings, seeds = self.settings(**sampling), _seeds(seed, 1)
        if mask.size != image.size:
            raise InputError(
                f"the mask is {mask.width}x{mask.height}, the picture {image.width}x{image.height}: "
                "make them the same size"
            )
        height, width = self.size
        pixels = _to_pixels(_fit(image.convert("RGB"), width, height)).to(self.device)
        painted = mask.convert("L").point([0] * 128 + [255] * 128)
        # A box filter keeps a trace of the thinnest stroke.
        white = torch.from_numpy(np.asarray(_fit(painted, width, height, Image.Resampling.BOX)) > 0)
        rows, columns = self.config.grid
        unknown = white.view(rows, height // rows, columns, width // columns).any(3).any(1).flatten()
        if not unknown.any():
            raise InputError("the mask is black everywhere: paint white what is to be drawn anew")
        self._warn_of_cut([prompt])
        y = self.tokenizer.encode(pixels).masked_fill(unknown[None].to(self.device), MASK)
        *_, last = self._steps(self._read([prompt]), y, seeds, settings)
        return self._pictures(last.y_obs)[0]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of a picture in pixels."""
        rows, columns = self.config.grid
        return rows * self.tokenizer.stride, columns * self.tokenizer.stride

    def num_cut(self, prompts: Sequence[str]) -> int:
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

    # --- Parts ---

    @torch.no_grad()
    def _batch(self, texts, seeds, settings: SamplingConfig, rank: Rank, ranker) -> list[tuple[Image.Image, float]]:
        different = list(dict.fromkeys(texts))  # candidates of one prompt: its text is read once
        context = self._read(different).of([different.index(text) for text in texts])
        *_, last = self._steps(context, self._unknown(len(texts)), seeds, settings)
        pictures = self._pictures(last.y_obs)
        scores = [0.0] * len(texts)
        if rank == "likelihood":
            rng = PictureRng(seeds, self.device)
            scores = ranking.likelihood(self.network, self.config.method, last.y_obs, context, rng).tolist()
        elif rank == "clip":
            scores = ranker.score(pictures, texts).tolist()
        return list(zip(pictures, scores, strict=True))

    def _steps(self, context: Context, y: Tensor, seeds: Sequence[int], settings: SamplingConfig) -> Iterator[Step]:
        decoder = self.network.decoder
        method = METHODS[self.config.method]
        if settings.guidance:
            decoder = Guided(decoder, self._read([""] * len(seeds)), settings, method.num_passes(settings, y.shape[1]))
        rng = PictureRng(seeds, self.device)
        yield from method.generate(decoder, context, y, settings, rng)

    @torch.no_grad()
    def _read(self, prompts: Sequence[str]) -> Context:
        ids, _ = self.network.text.tokenize(prompts)
        return self.network.read(ids.to(self.device))

    def _warn_of_cut(self, prompts: Sequence[str]) -> None:
        if cut := self.num_cut(prompts):
            warnings.warn(
                f"{cut} of {len(prompts)} prompts {'is' if cut == 1 else 'are'} longer than the text encoder's "
                f"{self.network.text.length} positions; the rest was not read",
                stacklevel=3,
            )

    def _unknown(self, batch: int) -> Tensor:
        rows, columns = self.config.grid
        return torch.full((batch, rows * columns), MASK, device=self.device)

    @torch.no_grad()
    def _pictures(self, y: Tensor) -> list[Image.Image]:
        # One at a time: a batched convolution rounds otherwise, and a picture must not depend on its neighbours.
        pixels = torch.cat([self.tokenizer.decode(row, grid=self.config.grid) for row in y.split(1)])  # (B,3,H,W)
        bytes_ = (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [Image.fromarray(picture) for picture in bytes_]


class Guided:
    """Classifier-free guidance: the decoder's logits pushed away from those of the empty caption, u + s (c - u).

    s is the settings' guidance throughout, or grows to it in a line over the passes: early tokens are drawn freely.
    """

    def __init__(self, decoder, empty: Context, settings: SamplingConfig, num_passes: int):
        self._decoder, self._empty, self._settings = decoder, empty, settings
        self._num_passes, self._passes = num_passes, 0

    def __call__(self, y: Tensor, context: Context, cache=None) -> Tensor:
        caches = cache or (None, None)
        c = self._decoder(y, context, caches[0])
        u = self._decoder(y, self._empty, caches[1])
        self._passes += 1
        share = self._passes / self._num_passes if self._settings.guidance_schedule == "linear" else 1.0
        scale = 1 + (self._settings.guidance - 1) * share
        return u + scale * (c - u)

    def new_cache(self, batch: int, n: int):
        return self._decoder.new_cache(batch, n), self._decoder.new_cache(batch, n)


def check_sampling(settings: SamplingConfig, n: int) -> None:
    """Raises InputError for a setting that makes no sense for pictures of `n` tokens."""
    bounds = {"steps": (1, n), "temperature": (0, 100), "top_k": (0, 1 << 20), "top_p": (1e-6, 1), "gumbel": (0, 1e3)}
    bounds |= {"guidance": (0, 100), "remask": (0, 0.99)}
    for name, (low, high) in bounds.items():
        value = getattr(settings, name)
        whole = name in ("steps", "top_k")
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not low <= value <= high:
            raise InputError(f"{name} must {'be a whole number' if whole else 'lie'} in {low}..{high}, not {value}")
    choices = {"schedule": get_args(Schedule), "order": ("confidence", "random", "halton")}
    choices |= {"revise": ("argmax", "sample"), "guidance_schedule": ("constant", "linear")}
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            raise InputError(f"{name} must be one of {', '.join(allowed)}, not {getattr(settings, name)!r}")


def _seeds(seed: Any, num_pictures: int) -> list[int]:
    """One seed a picture, from one for all or one each. Raises InputError."""
    seeds = list(seed) if isinstance(seed, Iterable) else [seed] * num_pictures
    if len(seeds) != num_pictures:
        raise InputError(f"{len(seeds)} seeds for {num_pictures} prompts: give one seed, or one a prompt")
    for value in seeds:
        if isinstance(value, bool) or not isinstance(value, Integral) or not 0 <= int(value) < 2**63:
            raise InputError(f"seed must be a whole number from 0 to 2^63 - 1, not {value!r}")
    return [int(value) for value in seeds]


def _candidate_seed(seed: int, candidate: int) -> int:
    if candidate == 0:
        return seed
    return int(np.random.SeedSequence([seed, candidate]).generate_state(1, np.uint64)[0] >> 1)


def _without_folders(config: CheckpointConfig, facts: dict[str, Any]) -> tuple[CheckpointConfig, dict[str, Any]]:
    """Both with file names where they name whole paths: a checkpoint is for others, a disk's layout is not."""
    if config.model.text_weights:
        config = replace(config, model=replace(config.model, text_weights=Path(config.model.text_weights).name))
    if "path" in facts.get("data", {}):
        facts = facts | {"data": facts["data"] | {"path": Path(facts["data"]["path"]).name}}
    return config, facts


def _fit(
    image: Image.Image, width: int, height: int, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    """Resized so that it covers width x height, then centre-cropped."""
    scale = max(width / image.width, height / image.height)
    image = image.resize((max(width, round(image.width * scale)), max(height, round(image.height * scale))), resampling)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def _to_pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255  # (1,3,H,W)
