"""Settings of the network, of generating with it, and what a checkpoint says of both."""

from dataclasses import dataclass, field
from typing import Literal

from emage.config.choices import Method, Schedule, UnmaskingOrder


@dataclass(frozen=True)
class ModelConfig:
    """The text encoder and the image decoder (Sec. 4: 12 + 12 layers of width 768)."""

    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp: Literal["geglu", "gelu"] = "geglu"
    mlp_ratio: float = 4.0
    positions: Literal["axial", "learned"] = "axial"
    text: Literal["clip_l14", "bert_base", "clip_tiny", "bert_tiny"] = "clip_l14"  # Sec. 4.5
    text_weights: str | None = None  # CLIP's file, BERT's folder; none: published, by name (tiny ones: random)
    text_length: int = 77  # positions; longer captions are cut, and counted
    text_frozen: bool = False  # not trained; states of captions are kept and used again


@dataclass(frozen=True)
class SamplingConfig:
    """How images are drawn from a trained model (Sec. 3, Algorithms 1 and 3; Sec. 4.6)."""

    steps: int = 16
    schedule: Schedule = "cosine"
    order: UnmaskingOrder = "confidence"
    temperature: float = 1.0  # of the token draw; 0 takes the argmax
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    gumbel: float = 4.5  # position noise, times 1 - t/T at step t: 0 at the last (order=confidence only)
    revise: Literal["argmax", "sample"] = "argmax"  # how #3 rewrites the tokens it already has
    # Beyond the paper, off by default:
    guidance: float = 0.0  # classifier-free guidance, u + s(c - u), trained by caption_dropout; 0 is off
    guidance_schedule: Literal["constant", "linear"] = "constant"  # linear: from 1 (none) up to `guidance` at the end
    remask: float = 0.0  # share of the known tokens, the least probable, masked again at every step but the last


@dataclass(frozen=True)
class CheckpointConfig:
    """What a checkpoint folder's config.yaml holds: enough to build the network and to draw from it."""

    method: Method = "iterative3"
    vocab_size: int = 8192
    grid: tuple[int, int] = (32, 32)
    model: ModelConfig = field(default_factory=ModelConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
