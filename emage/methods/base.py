"""Types and functions that the methods share: MethodModule (a method's members), Loss, Step, the first training pass.

Letters: B images, N image tokens, M positions of each, V codes.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from emage.config import ObjectiveConfig, SamplingConfig
from emage.methods.masking import ImageRng, Rng, sample_num_masked
from emage.methods.sampling import sample_tokens


class Loss(NamedTuple):
    """Cross-entropy as a sum and a count, so that workers with unequal counts add up to the correct mean."""

    total: Tensor  # () sum over the scored positions, nats
    count: Tensor  # () number of scored positions
    nats: Tensor  # (B,N) of each scored position, 0 elsewhere; no gradient
    scored: Tensor  # (B,N) bool
    logits: Tensor  # (B,N,V) of the scored pass
    # (B,N) bool, the positions at which that pass read [MASK]; all of them for autoregressive and
    # parallel_autoregressive, where no position reads its own token.
    masked: Tensor


class Step(NamedTuple):
    """The tokens of a batch after one decoding step."""

    y_obs: Tensor  # (B,N) unmasked tokens, MASK elsewhere
    guess: Tensor  # (B,N) a token everywhere: the image if generation ended here


class MethodModule(Protocol):
    """The members that a module in METHODS must have. The ones in capitals are constants: `CAUSAL = False`.

    The first sentence of the module's docstring is shown on model cards. A module may also have:

    - LIMITS: sentences for the limits that a model card lists;
    - TWO_STREAMS: True if training passes every position twice, as content and as query (for FLOP counts);
    - generate_new: as `generate`, called instead of it if no token of the batch is given.
    """

    @property
    def CAUSAL(self) -> bool:
        """The network's self-attention sees earlier positions only.

        `generate` must then do the same work on the same memory in every step after the first: one CUDA graph serves
        all of them.
        """
        ...

    @property
    def TWO_PASSES(self) -> bool:
        """Training feeds the network its own tokens, so that a warm start as iterative1 makes sense."""
        ...

    @property
    def PARTIAL_CONTEXT(self) -> bool:
        """The network is trained to read images of which only some tokens are unmasked."""
        ...

    def num_steps(self, settings: SamplingConfig, n: int) -> int:
        """Return how many decoding steps `generate` takes for images of `n` tokens."""
        ...

    def max_random_numbers(self, settings: SamplingConfig, n: int) -> int:
        """Return how many random numbers `generate` uses per image, at most."""
        ...

    def num_scored(self, n: int, objective: ObjectiveConfig, rng: ImageRng, progress: float = 1.0) -> Tensor:
        """Return how many of the `n` positions of each image `loss` will score, (B,).

        Training calls it before the first forward pass, with `rng` in the state in which `loss` will get it: if the
        count is random, it is the first number that `loss` samples. Most methods take `all_scored` or `masked_scored`.
        """
        ...

    def loss(
        self, model: Any, y: Tensor, context: Any, objective: ObjectiveConfig, rng: ImageRng, progress: float = 1.0
    ) -> Loss:
        """Return the training loss.

        Args:
            model: Any callable (tokens (B,N), context) -> logits (B,N,V). If it also has a method
                logits_at(tokens, context, positions (B,M)) -> logits (B,M,V), as the network has, it is used if only
                some positions matter.
            y: The images' tokens (B,N).
            context: The text as the model reads it; a method only passes it on.
            objective: Settings of the loss.
            rng: One generator per image.
            progress: The fraction of the training's steps that were done before this one, for methods that learn
                different things early and late. 1.0: as at the end.
        """
        ...

    def generate(self, model: Any, context: Any, y_obs: Tensor, settings: SamplingConfig, rng: Rng) -> Iterator[Step]:
        """Generate a batch of images and yield its tokens after every decoding step.

        Args:
            model: As for `loss`. A causal method also calls model.new_cache(B, N) and passes the cache as the third
                argument.
            context: As for `loss`.
            y_obs: The tokens (B,N) that are given, MASK elsewhere; they stay as they are.
            settings: Sampling settings.
            rng: One generator per image.

        Yields:
            The tokens after each of the `num_steps` steps.
        """
        ...


def cross_entropy(logits: Tensor, y: Tensor, masked: Tensor, scored: Tensor) -> Loss:
    """Return the loss of `logits` (B,N,V) against `y` (B,N) over the `scored` (B,N) positions, in float32."""
    nats = F.cross_entropy(logits[scored].float(), y[scored], reduction="none")
    nats_of_all = torch.zeros(y.shape, device=y.device).masked_scatter_(scored, nats.detach())
    return Loss(nats.sum(), scored.sum(), nats_of_all, scored, logits, masked)


def all_scored(n: int, objective: ObjectiveConfig, rng: ImageRng, progress: float = 1.0) -> Tensor:
    """Return `num_scored` (B,) of a method whose loss is over all `n` positions."""
    return torch.full((len(rng),), n, device=rng.device)


def masked_scored(n: int, objective: ObjectiveConfig, rng: ImageRng, progress: float = 1.0) -> Tensor:
    """Return `num_scored` (B,) of a method whose loss is over the masked positions of the first `sample_mask`."""
    return sample_num_masked(n, objective.mask_schedule, rng)


def logits_at(model, y: Tensor, context, positions: Tensor) -> Tensor:
    """Return the model's logits (B,M,V) at the `positions` (B,M).

    The network has a `logits_at`, which does not compute those of other positions. A model without one computes all.
    """
    if hasattr(model, "logits_at"):
        return model.logits_at(y, context, positions)
    logits = model(y, context)
    return logits.gather(1, positions[..., None].expand(*positions.shape, logits.shape[2]))


@torch.no_grad()
def first_pass(model, y_mask: Tensor, context, objective: ObjectiveConfig, rng: ImageRng) -> Tensor:
    """Return the model's own tokens at every position, (B,N), on which iterative2 and iterative3 train. No gradient."""
    sampled = sample_tokens(model(y_mask, context), rng.uniform(y_mask.shape[1]))
    # Under autocast this pass has cached casts of the weights without a graph; the second pass would reuse them, and
    # half of the parameters would get no gradient.
    torch.clear_autocast_cache()
    is_sampled = objective.first_pass == "sample"  # nosec B105 # no password
    return sampled.tokens if is_sampled else sampled.best


def mix_in_truth(y_pred: Tensor, y: Tensor, objective: ObjectiveConfig, rng: ImageRng) -> Tensor:
    """Return `y_pred` (B,N) with a random fraction of the positions taken from `y`, `ground_truth_share` (ours).

    The network then reads some correct tokens, and learns to use them (docs/methods.md, "Networks that ignore ...").
    """
    if not objective.ground_truth_share:
        return y_pred
    return torch.where(rng.uniform(y.shape[1]) < objective.ground_truth_share, y, y_pred)
