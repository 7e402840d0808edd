"""The figures that the paper gives (Sec. 4): FID on 30,000 captions of MS-COCO, zero-shot; seconds on one V100.

Figures 3 and 4 are drawings without numbers. Of the fully non-autoregressive model it says that it hardly converges.
"""

from typing import Literal, NamedTuple

from emage.config import Method


class Known(NamedTuple):
    """What the paper says of one row; None where it says nothing."""

    fid: float | None = None
    latency: float | None = None  # seconds an image


UNKNOWN = Known()

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
TABLE3: dict[Method, Known] = {
    "fully_nar": UNKNOWN,
    "iterative1": Known(32.59, 0.95),
    "iterative2": Known(28.01, 0.95),
    "iterative3": Known(24.97, 0.95),
    "autoregressive": Known(19.45, 48.0),
}


class Other(NamedTuple):
    """A row of somebody else's model, as Table 4 gives it."""

    name: str
    parameters: str
    fid: float


# Table 4: 500k steps for the last two, which are the paper's own.
TABLE4_OTHERS = (
    Other("DALL-E", "12B", 28),  # "~28"
    Other("CogView", "4B", 27.1),
    Other("CogView2", "6B", 24.0),
    Other("GLIDE", "5B", 12.24),
    Other("Make-A-Scene", "4B", 11.84),
    Other("DALL-E 2", "6.5B", 10.39),
    Other("Imagen", "7.9B", 7.27),
    Other("Parti", "20B", 7.23),
)
TABLE4: dict[Method, Known] = {"autoregressive": Known(17.00, 48.0), "iterative3": Known(19.74, 0.95)}

# Table 5: about 250k steps, by method and text encoder.
TABLE5: dict[tuple[Method, Literal["bert", "clip"]], float] = {
    ("autoregressive", "bert"): 28.27,
    ("autoregressive", "clip"): 19.45,
    ("iterative1", "bert"): 72.77,
    ("iterative1", "clip"): 32.59,
}

# Table 6: #3 of Table 4, by iterations.
TABLE6 = {4: Known(71.13, 0.25), 8: Known(27.99, 0.48), 16: Known(19.74, 0.95), 32: Known(18.94, 1.85)}

# Figure 5: the iterations that it shows, of 16.
FIGURE5 = (1, 3, 5, 7, 9, 11, 14, 16)
FIGURE5_PROMPTS = ("a living area with a television and a table.", "aerial view of the beach at night.")
