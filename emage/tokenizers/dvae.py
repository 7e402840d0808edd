"""OpenAI's discrete VAE: images to codes and back, with the network and the state-dict keys of package dall_e.

    pixels -> encoder -> scores of every code -> ids -> decoder -> pixels

Letters: B images, H W image, h w grid (H / 8, W / 8), N = h * w tokens, V codes, E decoder width.

Module names follow the published modules (`blocks.group_1.block_2.res_path.conv_3.w`), so that their weights load with
strict=True. There is no code table: the decoder's first layer is a 1x1 convolution of the one-hot ids, and its columns
are the codes.
"""

import math
from collections import OrderedDict
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emage.tokenizers.input_checks import check_pixels, to_grid
from emage.utils.torch_compile import compilable

STRIDE = 8  # px per token: three of the four groups halve the sides
MARGIN = 0.1  # pixels are mapped to [0.1, 0.9], where their logit, which the published loss uses, is moderate


@dataclass(frozen=True)
class DVAEConfig:
    """Sizes of a dVAE."""

    vocab_size: int = 8192  # V
    n_hid: int = 256  # channels of the group nearest the image; the others have 2, 4 and 8 times as many
    n_init: int = 128  # E, the width of a code in the decoder
    num_blocks: int = 2  # per group
    resolution: int = 256  # px; determines `grid`. Images of other sizes work as well

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of tokens of an image of `resolution`."""
        side = self.resolution // STRIDE
        return side, side


class DVAE(nn.Module):
    """The tokenizer: encoder and decoder."""

    def __init__(self, config: DVAEConfig, name: str = "dvae"):
        super().__init__()
        self.config = config
        self.name = name
        self.sha256 = ""  # of the weights, set by weight_files.build
        self.vocab_size = config.vocab_size
        self.stride = STRIDE
        self.grid = config.grid
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels (B,3,H,W) in [0,1] to ids (B,N) int64, row by row: the best code of each position."""
        check_pixels(pixels, self.stride, self.name)
        scores = self.encoder((1 - 2 * MARGIN) * pixels + MARGIN)  # (B, V, h, w)
        return scores.argmax(1).flatten(1)

    @torch.no_grad()
    def decode(self, ids: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Decode ids (B,N) int64 to pixels (B,3,H,W) in [0,1]. `grid`: (h,w); None: a square."""
        return self.decode_grid(to_grid(ids, self.vocab_size, grid))

    @torch.no_grad()
    def decode_grid(self, ids: Tensor) -> Tensor:
        """Decode ids (B,h,w) to pixels (B,3,H,W) in [0,1]. Ids are not checked: the host would wait for the GPU."""
        out = self.decoder(ids)[:, :3].float()  # (B, 3, H, W): the locations; only the loss needs the scales
        return ((out.sigmoid() - MARGIN) / (1 - 2 * MARGIN)).clamp(0, 1)


class Encoder(nn.Module):
    """Pixels (B,3,H,W) in [0.1,0.9] -> scores of every code (B,V,h,w)."""

    def __init__(self, config: DVAEConfig):
        super().__init__()
        n = config.n_hid
        blocks: OrderedDict[str, nn.Module] = OrderedDict(input=Conv2d(3, n, 7))
        for i, (c_in, c_out) in enumerate(pairwise([n, n, 2 * n, 4 * n, 8 * n]), start=1):
            blocks[f"group_{i}"] = group(c_in, c_out, (3, 3, 3, 1), config.num_blocks)
            if i < 4:
                blocks[f"group_{i}"].add_module("pool", nn.MaxPool2d(2))
        blocks["output"] = output(8 * n, config.vocab_size)
        self.blocks = nn.Sequential(blocks)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W)
        return self.blocks(x)  #                (B, V, h, w)


class Decoder(nn.Module):
    """Ids (B,h,w) -> locations and scales of a distribution of the pixels (B,6,H,W)."""

    def __init__(self, config: DVAEConfig):
        super().__init__()
        n = config.n_hid
        blocks: OrderedDict[str, nn.Module] = OrderedDict(input=Conv2d(config.vocab_size, config.n_init, 1))
        for i, (c_in, c_out) in enumerate(
            [(config.n_init, 8 * n), (8 * n, 4 * n), (4 * n, 2 * n), (2 * n, n)], start=1
        ):
            blocks[f"group_{i}"] = group(c_in, c_out, (1, 3, 3, 3), config.num_blocks)
            if i < 4:
                blocks[f"group_{i}"].add_module("upsample", nn.Upsample(scale_factor=2.0, mode="nearest"))
        blocks["output"] = output(n, 6)
        self.blocks = nn.Sequential(blocks)

    @compilable
    def forward(self, ids: Tensor) -> Tensor:  # (B, h, w)
        table = self.blocks[0]
        assert isinstance(table, Conv2d)
        # A 1x1 convolution of one-hot ids is a look-up: no (B, V, h, w) of zeros
        x = F.embedding(ids, table.w.flatten(1).T) + table.b  # (B, h, w, E)
        x = x.permute(0, 3, 1, 2)  #                            (B, E, h, w)
        return self.blocks[1:](x)  #                            (B, 6, H, W)


def group(c_in: int, c_out: int, kernels: tuple[int, ...], num_blocks: int) -> nn.Sequential:
    widths = [c_in] + [c_out] * (num_blocks - 1)
    gain = 1 / (4 * num_blocks) ** 2  # from the number of blocks in all four groups
    return nn.Sequential(
        OrderedDict((f"block_{i}", Block(width, c_out, kernels, gain)) for i, width in enumerate(widths, start=1))
    )


def output(c_in: int, c_out: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(relu=nn.ReLU(), conv=Conv2d(c_in, c_out, 1)))


class Block(nn.Module):
    """A residual block: four convolutions, the first three with a quarter of the channels, and a shortcut."""

    def __init__(self, c_in: int, c_out: int, kernels: tuple[int, ...], gain: float):
        super().__init__()
        self.gain = gain
        self.id_path = nn.Identity() if c_in == c_out else Conv2d(c_in, c_out, 1)
        widths = [c_in, c_out // 4, c_out // 4, c_out // 4, c_out]
        path: OrderedDict[str, nn.Module] = OrderedDict()
        for i, kernel in enumerate(kernels):
            path[f"relu_{i + 1}"] = nn.ReLU()
            path[f"conv_{i + 1}"] = Conv2d(widths[i], widths[i + 1], kernel)
        self.res_path = nn.Sequential(path)

    def forward(self, x: Tensor) -> Tensor:
        return self.id_path(x) + self.gain * self.res_path(x)


class Conv2d(nn.Module):
    """A convolution that keeps the size. Its parameters are named w and b, as in the published files."""

    def __init__(self, c_in: int, c_out: int, kernel: int):
        super().__init__()
        self.w = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel) / math.sqrt(c_in * kernel**2))
        self.b = nn.Parameter(torch.zeros(c_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.w, self.b, padding="same")
