"""VQGAN: images to codes and back; network and state-dict keys as in taming-transformers and latent-diffusion.

    pixels -> encoder -> quant_conv -> quantize -> ids -> embedding -> post_quant_conv -> decoder -> pixels

Letters: B images, H W image, h w grid (H / stride, W / stride), N = h * w tokens, Z latent channels, E code width,
V codes, C channels.

Module names follow the published files (`down.0.block.1.conv1`, `mid.attn_1`, ...), so that their weights load with
strict=True once `loss.*` is dropped.

It runs in float32: in float16 the published weights give NaN.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from emage.tokenizers.input_checks import check_pixels, to_grid
from emage.utils.torch_compile import compilable


@dataclass(frozen=True)
class VQGANConfig:
    """Sizes of a VQGAN."""

    vocab_size: int = 8192  # V
    code_dim: int = 256  # E
    z_channels: int = 256  # Z
    channels: int = 128  # C of the first level
    channel_mult: tuple[int, ...] = (1, 1, 2, 4)  # C / channels of each level; the image halves between levels
    num_res_blocks: int = 2  # per level of the encoder; the decoder has one more
    num_groups: int = 32  # of every GroupNorm
    resolution: int = 256  # px; determines `grid` and the levels with attention. Images of other sizes work as well
    attention_resolutions: tuple[int, ...] = (32,)  # px; the levels at which an image of `resolution` has this size
    quantizer: Literal["nearest", "gumbel"] = "nearest"
    patchwise: bool = False  # the encoder sees each stride x stride patch alone: equal patches get equal codes

    @property
    def stride(self) -> int:
        """Return the px per token, along each side."""
        return 2 ** (len(self.channel_mult) - 1)

    @property
    def grid(self) -> tuple[int, int]:
        """Return the rows and columns of tokens of an image of `resolution`."""
        side = self.resolution // self.stride
        return side, side

    def has_attention(self, level: int) -> bool:
        """Return True if a level, numbered from the image's side, has attention."""
        return self.resolution >> level in self.attention_resolutions


class VQGAN(nn.Module):
    """The tokenizer: encoder, quantizer with the codes, and decoder."""

    def __init__(self, config: VQGANConfig, name: str = "vqgan"):
        super().__init__()
        self.config = config
        self.name = name
        self.sha256 = ""  # of the weights, set by weight_files.build
        self.vocab_size = config.vocab_size
        self.stride = config.stride
        self.grid = config.grid
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantize = GumbelQuantizer(config) if config.quantizer == "gumbel" else NearestQuantizer(config)
        self.quant_conv = nn.Conv2d(config.z_channels, config.code_dim, 1)
        self.post_quant_conv = nn.Conv2d(config.code_dim, config.z_channels, 1)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels (B,3,H,W) in [0,1] to ids (B,N) int64, row by row: the best code of each position."""
        return self.quantize(self.latents(pixels)).flatten(1)

    @torch.no_grad()
    def decode(self, ids: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """Decode ids (B,N) int64 to pixels (B,3,H,W) in [0,1]. `grid`: (h,w); None: a square."""
        return self.decode_grid(to_grid(ids, self.vocab_size, grid))

    @torch.no_grad()
    def decode_grid(self, ids: Tensor) -> Tensor:
        """Decode ids (B,h,w) to pixels (B,3,H,W) in [0,1]. Ids are not checked: the host would wait for the GPU."""
        codes = self.quantize.codes[ids].permute(0, 3, 1, 2)  # (B, E, h, w)
        return self.pixels(codes).float().clamp(0, 1)

    def latents(self, pixels: Tensor) -> Tensor:
        """Return the latents (B,E,h,w), not quantized, of pixels (B,3,H,W) in [0,1]."""
        check_pixels(pixels, self.stride, self.name)
        stride = self.stride
        x = 2 * pixels - 1
        if not self.config.patchwise:
            return self.quant_conv(self.encoder(x))  #                                          (B, E, h, w)
        h, w = x.shape[2] // stride, x.shape[3] // stride
        x = x.unflatten(3, (w, stride)).unflatten(2, (h, stride))  #                             (B, 3, h, s, w, s)
        x = x.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  #                                         (B*N, 3, s, s)
        x, patch = x.unique(dim=0, return_inverse=True)  # most patches of a toy image are equal
        z = self.quant_conv(self.encoder(x))[patch]  #                                           (B*N, E, 1, 1)
        return z.view(-1, h, w, z.shape[1]).permute(0, 3, 1, 2)  #                               (B, E, h, w)

    def pixels(self, codes: Tensor) -> Tensor:
        """Return the pixels (B,3,H,W) of codes (B,E,h,w): approximately in [0,1], not clamped."""
        return (self.decoder(self.post_quant_conv(codes)) + 1) / 2


# Quantizers: latents (B, E, h, w) -> ids (B, h, w); `codes` is the table (V, E)


class NearestQuantizer(nn.Module):
    """Takes the code nearest to the latent."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.code_dim)

    @property
    def codes(self) -> Tensor:
        return self.embedding.weight

    def forward(self, z: Tensor) -> Tensor:
        z = z.permute(0, 2, 3, 1)  # (B, h, w, E)
        # |z - e|^2 without |z|^2, which is the same for every code
        distance = self.codes.square().sum(1) - 2 * z @ self.codes.T  # (B, h, w, V)
        return distance.argmin(-1)


class GumbelQuantizer(nn.Module):
    """Scores every code by a 1x1 convolution and takes the best. The published module samples, even in eval mode."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        self.proj = nn.Conv2d(config.code_dim, config.vocab_size, 1)
        self.embed = nn.Embedding(config.vocab_size, config.code_dim)

    @property
    def codes(self) -> Tensor:
        return self.embed.weight

    def forward(self, z: Tensor) -> Tensor:
        return self.proj(z).argmax(1)


# Encoder and decoder


class Encoder(nn.Module):
    """Pixels (B,3,H,W) in [-1,1] -> latents (B,Z,h,w)."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        groups = config.num_groups
        width = config.channels
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList()
        for level, mult in enumerate(config.channel_mult):
            last = level == len(config.channel_mult) - 1
            stage = Stage(width, config.channels * mult, config.num_res_blocks, config.has_attention(level), groups)
            width = config.channels * mult
            if not last:
                stage.downsample = Downsample(width)
            self.down.append(stage)
        self.mid = Middle(width, groups)
        self.norm_out = norm(width, groups)
        self.conv_out = nn.Conv2d(width, config.z_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, 3, H, W)
        x = self.conv_in(x)  #                  (B, C, H, W)
        for stage in self.down:
            x = stage(x)  #                     each stage but the last halves the sides
        x = self.mid(x)  #                      (B, C, h, w)
        return self.conv_out(F.silu(self.norm_out(x)))  # (B, Z, h, w)


class Decoder(nn.Module):
    """Latents (B,Z,h,w) -> pixels (B,3,H,W), about in [-1,1]."""

    def __init__(self, config: VQGANConfig):
        super().__init__()
        groups = config.num_groups
        width = config.channels * config.channel_mult[-1]
        self.conv_in = nn.Conv2d(config.z_channels, width, 3, padding=1)
        self.mid = Middle(width, groups)
        stages: list[Stage] = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            stage = Stage(width, config.channels * mult, config.num_res_blocks + 1, config.has_attention(level), groups)
            width = config.channels * mult
            if level != 0:
                stage.upsample = Upsample(width)
            stages.insert(0, stage)  # the published keys number the levels from the image's side
        self.up = nn.ModuleList(stages)
        self.norm_out = norm(width, groups)
        self.conv_out = nn.Conv2d(width, 3, 3, padding=1)

    @compilable
    def forward(self, z: Tensor) -> Tensor:  # (B, Z, h, w)
        x = self.mid(self.conv_in(z))  #        (B, C, h, w)
        for stage in reversed(self.up):
            x = stage(x)  #                     each stage but the last doubles the sides
        return self.conv_out(F.silu(self.norm_out(x)))  # (B, 3, H, W)


class Stage(nn.Module):
    """One level: residual blocks, each followed by attention if the level has it, then a change of size if any."""

    def __init__(self, c_in: int, c_out: int, num_blocks: int, has_attention: bool, num_groups: int):
        super().__init__()
        widths = [c_in] + [c_out] * (num_blocks - 1)
        self.block = nn.ModuleList(ResBlock(width, c_out, num_groups) for width in widths)
        self.attn = nn.ModuleList(Attention(c_out, num_groups) for _ in widths if has_attention)
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        for i, block in enumerate(self.block):
            x = block(x)
            if self.attn:
                x = self.attn[i](x)
        for resize in (self.downsample, self.upsample):
            if resize is not None:
                x = resize(x)
        return x


class Middle(nn.Module):
    """The layers at the smallest size: a residual block, attention, a residual block."""

    def __init__(self, width: int, num_groups: int):
        super().__init__()
        self.block_1 = ResBlock(width, width, num_groups)
        self.attn_1 = Attention(width, num_groups)
        self.block_2 = ResBlock(width, width, num_groups)

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class ResBlock(nn.Module):
    """Two 3x3 convolutions with normalisation, and a shortcut."""

    def __init__(self, c_in: int, c_out: int, num_groups: int):
        super().__init__()
        self.norm1 = norm(c_in, num_groups)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.norm2 = norm(c_out, num_groups)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        if c_in != c_out:
            self.nin_shortcut = nn.Conv2d(c_in, c_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    """Self-attention with one head over all positions."""

    def __init__(self, width: int, num_groups: int):
        super().__init__()
        self.norm = norm(width, num_groups)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, C, h, w)
        y = self.norm(x)
        q, k, v = (conv(y).flatten(2).transpose(1, 2) for conv in (self.q, self.k, self.v))  # (B, N, C)
        y = F.scaled_dot_product_attention(q, k, v)  #                                          (B, N, C)
        return x + self.proj_out(y.transpose(1, 2).unflatten(2, x.shape[2:]))


class Downsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom only: the published weights expect it


class Upsample(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def norm(width: int, num_groups: int) -> nn.GroupNorm:
    return nn.GroupNorm(num_groups, width, eps=1e-6)
