"""Numbers from the paper (Sec. 4): FID on 30,000 captions of MS-COCO, zero-shot, and seconds per image on one V100.

Figures 3 and 4 are plots without numbers. For the fully non-autoregressive model the paper gives no numbers: it hardly
converges.
"""

from typing import Literal, NamedTuple

from emage.config import Method


class PaperNumbers(NamedTuple):
    """The paper's numbers for one row of a table; None if it gives none."""

    fid: float | None = None
    latency: float | None = None  # seconds per image


NO_NUMBERS = PaperNumbers()

# Table 2: FID of reconstructions of the 40,504 images of val2014, by our names of the tokenizers.
TABLE2 = {
    "dvae": 36.23,
    "vqgan-f16-1024": 22.35,
    "vqgan-f16-16384": 17.73,
    "vqgan-f8-256": 14.60,
    "vqgan-f8-16384": 14.36,
    "vqgan-gumbel-f8-8192": 12.38,
}

# Table 3: base models, about 250k steps, by method.
TABLE3: dict[Method, PaperNumbers] = {
    "fully_nar": NO_NUMBERS,
    "iterative1": PaperNumbers(32.59, 0.95),
    "iterative2": PaperNumbers(28.01, 0.95),
    "iterative3": PaperNumbers(24.97, 0.95),
    "autoregressive": PaperNumbers(19.45, 48.0),
}


class OtherModel(NamedTuple):
    """A row of Table 4 about another group's model."""

    name: str
    parameters: str
    fid: float


# Table 4: 500k steps for the last two, which are the paper's own.
TABLE4_OTHERS = (
    OtherModel("DALL-E", "12B", 28),  # "~28"
    OtherModel("CogView", "4B", 27.1),
    OtherModel("CogView2", "6B", 24.0),
    OtherModel("GLIDE", "5B", 12.24),
    OtherModel("Make-A-Scene", "4B", 11.84),
    OtherModel("DALL-E 2", "6.5B", 10.39),
    OtherModel("Imagen", "7.9B", 7.27),
    OtherModel("Parti", "20B", 7.23),
)
TABLE4: dict[Method, PaperNumbers] = {
    "autoregressive": PaperNumbers(17.00, 48.0),
    "iterative3": PaperNumbers(19.74, 0.95),
}

# Table 5: about 250k steps, by method and text encoder.
TABLE5: dict[tuple[Method, Literal["bert", "clip"]], float] = {
    ("autoregressive", "bert"): 28.27,
    ("autoregressive", "clip"): 19.45,
    ("iterative1", "bert"): 72.77,
    ("iterative1", "clip"): 32.59,
}

# Table 6: iterative3 of Table 4, by decoding steps.
TABLE6 = {
    4: PaperNumbers(71.13, 0.25),
    8: PaperNumbers(27.99, 0.48),
    16: PaperNumbers(19.74, 0.95),
    32: PaperNumbers(18.94, 1.85),
}

# Figure 5: the decoding steps that it shows, of 16.
FIGURE5 = (1, 3, 5, 7, 9, 11, 14, 16)
FIGURE5_PROMPTS = ("a living area with a television and a table.", "aerial view of the beach at night.")
