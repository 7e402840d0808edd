"""Part of benchmarks/generate.py: the other models (peers), with random weights, which cost the same as trained ones.

amused: aMUSEd-256 in its published sizes, run by diffusers' AmusedPipeline.
muse_maskgit: lucidrains' MaskGit in any size, run by its own `generate`.

Nothing is fetched: captions are random ids (aMUSEd) or random text states (Muse, without its T5). A peer that is not
installed raises ImportError; `make bench` installs both.

Letters: B batch, N tokens of an image, S text tokens, D width of the text states, V codes.
"""

from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from math import isqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

TEXT_LENGTH, TEXT_WIDTH = 77, 768  # S, D of CLIP ViT-L/14, for both

# As published with amused-256: 603,537,664 parameters; the tokenizer of amused-512, the text encoder of CLIP ViT-L/14.
AMUSED_TRANSFORMER: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 22,
    "num_attention_heads": 16,
    "intermediate_size": 2816,
    "in_channels": 768,
    "block_out_channels": 768,
    "block_num_heads": 12,
    "num_res_blocks": 3,
    "vocab_size": 8256,
    "codebook_size": 8192,
    "encoder_hidden_size": TEXT_WIDTH,
    "cond_embed_dim": TEXT_WIDTH,
    "micro_cond_encode_dim": 256,
    "micro_cond_embed_dim": 1280,
}
AMUSED_VQVAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 256, 512, 768),
    "down_block_types": ("DownEncoderBlock2D",) * 5,
    "up_block_types": ("UpDecoderBlock2D",) * 5,
    "layers_per_block": 2,
    "latent_channels": 64,
    "num_vq_embeddings": 8192,
    "mid_block_add_attention": False,
    "lookup_from_codebook": True,
    "force_upcast": True,
}
AMUSED_TEXT: dict[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": TEXT_WIDTH,
}
AMUSED_MASK, AMUSED_GUIDANCE, AMUSED_SCORE = 8255, 10.0, 6  # its [MASK], and two of its pipeline's defaults

# The tokenizer of its README with three levels in place of four, so that 256 x 256 pixels are 32 x 32 tokens.
MUSE_VAE: dict[str, Any] = {"dim": 256, "layers": 3}
MUSE_FF = 6  # of which it takes two thirds: its feed-forward layers are as wide as ours; its default is 4


class Peer(NamedTuple):
    """Another model, ready to be timed on one device, in one precision and at one batch size."""

    name: str
    version: str  # package and version
    tokens: int  # per image
    steps: int
    parameters: int  # of the networks that run in a step
    step: Callable[[], Tensor]  # one forward pass of its transformer, as its sampler calls it; returns logits
    generate: Callable[[], Tensor] | None  # pixels on the device, (B, 3, H, W); None if only a step can be timed
    loop_step: (
        Callable[[], Tensor] | None
    )  # one step of its own loop: a forward pass, sampled tokens, selected positions
    scope: str  # what `generate` covers
    networks: tuple[nn.Module, ...]  # torch.compile may be applied to them in place: module.compile(...)


def amused(
    device: torch.device | str,
    dtype: torch.dtype,
    batch: int,
    tokens: int = 256,
    steps: int = 12,
    guidance: bool = False,
) -> Peer:
    """Return aMUSEd-256. With another number of `tokens`, a larger square, only a step can be timed.

    `guidance` is its pipeline's default, scale 10: captions and empty captions in one forward pass of twice the batch,
    and the text encoder twice. Without it a forward pass has as many rows as images, as Emage's has. In float16 its
    pipeline casts the tokenizer to float32 and back for every image.
    """
    from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel, logging
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    logging.set_verbosity_error()  # it warns of every cast, and that aMUSEd is no longer maintained
    side, rows = isqrt(tokens), batch * (1 + guidance)
    make = partial(_placed, device=device, dtype=dtype)
    transformer = make(lambda: UVit2DModel(**AMUSED_TRANSFORMER, sample_size=side))
    pixels = side * 2 ** (len(AMUSED_VQVAE["block_out_channels"]) - 1)
    with torch.inference_mode():  # as in `generate`: torch.compile makes other graphs of other tensors
        y = torch.full((rows, side, side), AMUSED_MASK, device=device)  # (B, sqrt N, sqrt N), guided 2B
        conditions = torch.tensor([[pixels, pixels, 0, 0, AMUSED_SCORE]], device=device, dtype=dtype)
        states = torch.randn(rows, TEXT_LENGTH, TEXT_WIDTH, device=device, dtype=dtype)  # (B, S, D), likewise
        given = {"micro_conds": conditions.expand(rows, -1), "pooled_text_emb": states[:, 0].clone()}

    @torch.inference_mode()
    def step() -> Tensor:
        return transformer(y, encoder_hidden_states=states, cross_attention_kwargs=None, **given)

    about = (f"diffusers {version('diffusers')}", tokens, steps, _count(transformer), step)
    name = f"aMUSEd-256{', guided' if guidance else ''} (diffusers)"
    if tokens != 256:
        return Peer(name, *about, None, None, "a step alone", (transformer,))

    text = make(lambda: CLIPTextModelWithProjection(CLIPTextConfig(**AMUSED_TEXT)))
    vqvae = make(lambda: VQModel(**AMUSED_VQVAE))
    pipe = AmusedPipeline(vqvae, None, text, transformer, AmusedScheduler(mask_token_id=AMUSED_MASK))
    pipe.set_progress_bar_config(disable=True)
    words = torch.randint(AMUSED_TEXT["vocab_size"], (2, batch, TEXT_LENGTH), device=device)

    def read(ids: Tensor, kind: str = "") -> dict[str, Tensor]:
        """Return the embeddings that the pipeline accepts in place of captions, computed as it computes them itself."""
        found = text(ids, return_dict=True, output_hidden_states=True)
        return {f"{kind}prompt_embeds": found.text_embeds, f"{kind}encoder_hidden_states": found.hidden_states[-2]}

    @torch.inference_mode()
    def generate() -> Tensor:
        captions = {**read(words[0]), **(read(words[1], "negative_") if guidance else {})}
        scale = AMUSED_GUIDANCE if guidance else 1.0
        return pipe(**captions, num_inference_steps=steps, guidance_scale=scale, output_type="pt").images

    return Peer(name, *about, generate, None, "text to pixels", (transformer, vqvae.decoder))


def muse_maskgit(
    device: torch.device | str,
    dtype: torch.dtype,
    batch: int,
    width: int = 768,
    depth: int = 12,
    heads: int = 12,
    vocab_size: int = 8192,
    tokens: int = 1024,
    steps: int = 16,
    flash: bool | None = None,
) -> Peer:
    """Return lucidrains' Muse without guidance and critic: one forward pass per step.

    In float16 only a step can be timed: its loop fills scores with -1e5, which float16 cannot hold.

    `flash` is its default and does not mean flash attention: the published code loops over tiles in Python, in float32
    alone. None: True on a CPU in float32, where it was measured to be faster; otherwise False, plain attention.
    """
    import muse_maskgit_pytorch.muse_maskgit_pytorch as muse
    from muse_maskgit_pytorch import MaskGit, MaskGitTransformer, VQGanVAE
    from muse_maskgit_pytorch.t5 import T5_CONFIGS
    from PIL import ImageFile
    from transformers import T5Config

    ImageFile.LOAD_TRUNCATED_IMAGES = False  # its import lets this whole process read broken images
    muse.tqdm = lambda iterable, **_: iterable  # no progress bar; it has no switch for that
    T5_CONFIGS["given"] = {"config": T5Config(d_model=TEXT_WIDTH)}  # it needs only the width of its T5
    make = partial(_placed, device=device, dtype=dtype)
    if flash is None:
        flash = torch.device(device).type == "cpu" and dtype == torch.float32
    sizes = {"dim": width, "depth": depth, "heads": heads, "dim_head": 64, "ff_mult": MUSE_FF, "flash": flash}
    transformer = make(lambda: MaskGitTransformer(num_tokens=vocab_size, seq_len=tokens, t5_name="given", **sizes))
    with torch.inference_mode():
        states = torch.randn(batch, TEXT_LENGTH, TEXT_WIDTH, device=device, dtype=dtype)  # (B, S, D)
        y = torch.full((batch, tokens), transformer.mask_id, device=device)  # (B, N)

    @torch.inference_mode()
    def step() -> Tensor:
        return transformer.forward_with_cond_scale(y, text_embeds=states, cond_scale=1, return_embed=True)[0]

    transformer.encode_text = lambda texts: states
    image_size = isqrt(tokens) * 2 ** MUSE_VAE["layers"]
    # Without discriminator and VGG, which only training needs. MaskGit decodes with a copy that it makes via the CPU.
    vae = VQGanVAE(codebook_size=vocab_size, use_vgg_and_gan=False, **MUSE_VAE)
    maskgit = _placed(lambda: MaskGit(image_size=image_size, transformer=transformer, vae=vae), device, dtype)

    @torch.inference_mode()
    def generate() -> Tensor:
        return maskgit.generate(texts=[""] * batch, timesteps=steps, cond_scale=1)

    decode = maskgit.vae.decode_from_ids

    @torch.inference_mode()
    def loop_step() -> Tensor:
        maskgit.vae.decode_from_ids = lambda ids: ids
        try:
            return maskgit.generate(texts=[""] * batch, timesteps=1, cond_scale=1)
        finally:
            maskgit.vae.decode_from_ids = decode

    about = (f"muse-maskgit-pytorch {version('muse-maskgit-pytorch')}", tokens, steps)
    used = _count(transformer) - _count(transformer.self_cond_to_init_embed)  # built always, used with self_cond alone
    name = f"Muse {width} x {depth} (lucidrains)"
    loop = (None, None) if dtype == torch.float16 else (generate, loop_step)
    return Peer(name, *about, used, step, *loop, "text states to pixels", (transformer.transformer_blocks,))


def _placed(build: Callable[[], nn.Module], device: torch.device | str, dtype: torch.dtype) -> Any:
    """Return the network that `build` makes, initialized on the device, ready for inference."""
    with torch.device(device):
        return build().to(device, dtype).eval().requires_grad_(False)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
