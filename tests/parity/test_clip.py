"""CLIP's text tower against open_clip's whole CLIP and transformers' CLIP, with the same weights.

Letters: B captions, S positions, D width.
"""

import open_clip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from emage.config import ModelConfig
from emage.model.text.clip import SIZES, ClipText

CAPTIONS = ["a red bus on a street", "", "an orange cat, asleep!", "word " * 100]


def whole_clip(text: str) -> open_clip.CLIP:
    """A CLIP of random weights with the text tower's published size, and hardly any eyes."""
    width, heads, layers = SIZES[text]
    torch.manual_seed(0)
    vision = CLIPVisionCfg(layers=1, width=64, patch_size=112)
    return open_clip.CLIP(width, vision, CLIPTextCfg(width=width, heads=heads, layers=layers), quick_gelu=True).eval()


def ours(clip: open_clip.CLIP, text: str) -> ClipText:
    encoder = ClipText(ModelConfig(text=text)).eval()
    weights = clip.state_dict()
    encoder.tower.load_state_dict({key: weights[key] for key in encoder.tower.state_dict()})
    return encoder


@torch.no_grad()
def test_the_tower_of_vit_l_14_says_what_open_clip_s_clip_says_before_it_pools():
    clip = whole_clip("clip_l14")
    encoder = ours(clip, "clip_l14")
    seen: list[Tensor] = []
    clip.ln_final.register_forward_hook(lambda module, args, states: seen.append(states))
    clip.encode_text(open_clip.get_tokenizer("ViT-L-14")(CAPTIONS))
    states = encoder(encoder.tokenize(CAPTIONS)[0])
    assert states.shape == (4, 77, 768) and (states - seen[0]).abs().max() < 1e-5


def test_ids_are_open_clip_s():
    encoder = ClipText(ModelConfig(text="clip_tiny"))
    captions = [*CAPTIONS, "  two\n spaces &amp; Ümläute 猫 ", "the <end_of_text> in between", "! " * 75, "! " * 76]
    ids, cut = encoder.tokenize(captions)
    assert torch.equal(ids, open_clip.get_tokenizer("ViT-L-14")(captions))
    assert cut.tolist() == [False, False, False, True, False, False, False, True]


@torch.no_grad()
def test_transformers_says_the_same():
    clip = whole_clip("clip_tiny")
    encoder = ours(clip, "clip_tiny")
    width, heads, layers = SIZES["clip_tiny"]
    config = CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_attention_heads=heads,
        num_hidden_layers=layers,
        vocab_size=49_408,
    )
    peer = CLIPTextModel(config).eval()
    prefix = "text_model." if any(key.startswith("text_model.") for key in peer.state_dict()) else ""
    peer.load_state_dict({prefix + key: value for key, value in as_transformers(encoder).items()}, strict=False)
    ids, _ = encoder.tokenize(CAPTIONS)
    assert (peer(input_ids=ids).last_hidden_state - encoder(ids)).abs().max() < 1e-5


def as_transformers(encoder: ClipText) -> dict[str, Tensor]:
    """The tower's weights under the names of transformers' CLIPTextModel."""
    names = {
        "token_embedding.weight": "embeddings.token_embedding.weight",
        "positional_embedding": "embeddings.position_embedding.weight",
        "ln_final": "final_layer_norm",
        "transformer.resblocks": "encoder.layers",
        **{"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"},
        **{"c_fc": "fc1", "c_proj": "fc2"},
    }
    renamed: dict[str, Tensor] = {}
    for key, value in encoder.tower.state_dict().items():
        for ours, theirs in names.items():
            key = key.replace(ours, theirs)
        if "attn.in_proj_" in key:  # query, key and value in one
            for part, third in zip("qkv", value.chunk(3), strict=True):
                renamed[key.replace("attn.in_proj_", f"self_attn.{part}_proj.")] = third
        else:
            renamed[key] = value
    return renamed
