"""A small CLIP with random weights in the form of open_clip: a model config and a weights file."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import open_clip
import torch
from safetensors.torch import save_file

CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


class ClipFiles(NamedTuple):
    model: str
    weights: str


def network(seed: int) -> open_clip.CLIP:
    torch.manual_seed(seed)
    return open_clip.CLIP(CONFIG["embed_dim"], CONFIG["vision_cfg"], CONFIG["text_cfg"]).eval()


def write(folder: Path, seed: int) -> ClipFiles:
    folder.mkdir(parents=True)
    (folder / "clip.json").write_text(json.dumps(CONFIG))
    save_file(network(seed).state_dict(), folder / "clip.safetensors")
    return ClipFiles(str(folder / "clip.json"), str(folder / "clip.safetensors"))
