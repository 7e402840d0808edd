"""Settings of the network and of generation with it, and the part of both that a checkpoint stores."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from emage.config.fields import group, setting

Method = Literal["fully_nar", "iterative1", "iterative2", "iterative3", "autoregressive", "parallel_autoregressive"]
Schedule = Literal["cosine", "linear", "square", "cubic", "sqrt"]
UnmaskingOrder = Literal["confidence", "random", "halton"]
Revise = Literal["argmax", "sample"]
GuidanceSchedule = Literal["constant", "linear"]
Dtype = Literal["float32", "tf32", "bfloat16", "float16"]  # of generation; tf32: float32 with faster matrix products

_TEXT_POSITIONS = {"clip_l14": 77, "bert_base": 512, "bert_tiny": 512}  # of the published weights, or of the encoder


@dataclass(frozen=True)
class ModelConfig:
    """The text encoder and the image decoder (paper, Sec. 4: 12 layers each, width 768)."""

    width: int = setting(
        768,
        "Width of the decoder's hidden states.",
        unit="channels",
        minimum=1,
        maximum=1 << 16,
        source="paper, Sec. 4",
    )
    depth: int = setting(12, "Layers of the decoder.", unit="layers", minimum=1, maximum=1_000, source="paper, Sec. 4")
    num_heads: int = setting(
        12, "Attention heads per layer; `width` is a multiple of it.", unit="heads", minimum=1, maximum=1 << 16
    )
    mlp: Literal["geglu", "gelu"] = setting("geglu", "Activation of the feed-forward layers.")
    mlp_ratio: float = setting(
        4.0, "Width of the feed-forward layers.", unit="multiples of `width`", above=0, maximum=64
    )
    positions: Literal["axial", "learned"] = setting(
        "axial", "Position embeddings of image tokens: one per row plus one per column, or one per position."
    )
    text: Literal["clip_l14", "bert_base", "clip_tiny", "bert_tiny"] = setting(
        "clip_l14",
        "Text encoder: CLIP ViT-L/14 or BERT base (Sec. 4.5), or a small one that starts from random weights.",
        source="paper, Sec. 4.3",
    )
    text_weights: str | None = setting(
        None,
        "Weights of the text encoder: a file (CLIP) or a folder (BERT). null: the published ones, downloaded by name.",
        is_path=True,
    )
    text_length: int = setting(
        77,
        "Text positions that the encoder reads; longer captions are truncated and counted.",
        unit="tokens",
        minimum=2,
        maximum=4_096,
    )
    text_frozen: bool = setting(
        False, "Keep the text encoder's weights fixed; its states of captions are then cached and reused."
    )

    def problems(self, prefix: str = "") -> Iterator[str]:
        """Yield a message for sizes of which no network can be made."""
        if self.width % self.num_heads:
            yield (
                f"{prefix}width={self.width}: must be a multiple of {prefix}num_heads={self.num_heads}, "
                f"such as {-(-self.width // self.num_heads) * self.num_heads}"
            )
        if int(self.width * self.mlp_ratio) < 1:
            yield (
                f"{prefix}mlp_ratio={self.mlp_ratio:g}: the feed-forward layers would have no channels; it must be at "
                f"least 1/{self.width} with {prefix}width={self.width}"
            )
        most = _TEXT_POSITIONS.get(self.text)
        if most and self.text_length > most and self.text_weights is None:
            yield f"{prefix}text_length={self.text_length}: {prefix}text={self.text} has {most} positions at most"


@dataclass(frozen=True)
class SamplingConfig:
    """Generation of images with a trained model (paper, Sec. 3, Algorithms 1 and 3)."""

    steps: int = setting(
        16,
        "Decoding steps per image; at most one per image token. `autoregressive` and `fully_nar` ignore it.",
        unit="decoding steps",
        minimum=1,
        source="paper, Sec. 4.6",
    )
    schedule: Schedule = setting(
        "cosine", "Fraction of the tokens that is unmasked after each step.", source="paper, Sec. 4.7"
    )
    order: UnmaskingOrder = setting(
        "confidence",
        "Which positions are unmasked first: the most probable ones, random ones, or a Halton sequence.",
        source="paper, Sec. 3.2",
    )
    temperature: float = setting(
        1.0, "Temperature at which tokens are sampled; 0 takes the most probable token.", minimum=0, maximum=100
    )
    top_k: int = setting(
        0, "Sample among this many of the most probable tokens; 0: all.", unit="tokens", minimum=0, maximum=1 << 20
    )
    top_p: float = setting(
        1.0, "Sample among the most probable tokens up to this cumulative probability; 1: all.", minimum=1e-6, maximum=1
    )
    gumbel: float = setting(
        4.5,
        "Gumbel noise on the confidence of positions, lowered linearly to 0 at the last step (order=confidence). "
        "The paper adds such noise (Sec. 4) and does not state how much.",
        minimum=0,
        maximum=1e3,
    )
    revise: Revise = setting(
        "argmax", "How iterative3 rewrites the tokens that are unmasked already: most probable token, or sampled."
    )
    guidance: float = setting(
        0.0,
        "Classifier-free guidance scale s: logits u + s(c - u), with u of an empty caption and c of the prompt; needs "
        "training with objective.caption_dropout. 0: off.",
        minimum=0,
        maximum=100,
    )
    guidance_schedule: GuidanceSchedule = setting(
        "constant", "Guidance over the steps: constant, or rising from 1 (no guidance) to `guidance` at the last step."
    )
    remask: float = setting(
        0.0,
        "Unmasked tokens, the least probable ones, that are masked again at every step but the last; 0: off.",
        unit="fraction of the unmasked tokens",
        minimum=0,
        maximum=0.99,
    )

    @property
    def reads_negative_prompts(self) -> bool:
        """Whether guidance leads away from a negative prompt: with a scale below 1 it would lead to it."""
        return self.guidance > 1


def guidance_of_scale(scale: float) -> float:
    """Return the setting `guidance` of a guidance scale as diffusers defines it, which is off up to 1.

    Both formulas are the same. At 1 it is the caption alone, for which `guidance` 0 needs no second forward pass.
    """
    return 0.0 if 0 <= scale <= 1 else scale


@dataclass(frozen=True)
class CheckpointConfig:
    """The config.yaml of a checkpoint folder: what is needed to build the network and to generate with it."""

    method: Method = setting("iterative3", "Method that the network was trained with.", source="paper, Sec. 4.4")
    vocab_size: int = setting(8192, "Codes of the tokenizer.", unit="codes", minimum=1, source="paper, Sec. 3.1")
    grid: tuple[int, int] = setting(
        (32, 32), "Rows and columns of an image's tokens.", unit="tokens", minimum=1, source="paper, Sec. 3.1"
    )
    model: ModelConfig = group(ModelConfig)
    sampling: SamplingConfig = group(SamplingConfig)
