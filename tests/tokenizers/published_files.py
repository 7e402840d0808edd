"""Weights in the published forms."""

import io
import zipfile

import torch
from torch import nn

from emage.tokenizers.dvae import DVAE


def lightning(model: nn.Module, **entries) -> bytes:
    """A checkpoint as Lightning writes it, with a loss of its own."""
    state = dict(model.state_dict()) | {"loss.perceptual_loss.weight": torch.zeros(3)}
    file = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3, "optimizer_states": [], "callbacks": {}} | entries, file)
    return file.getvalue()


def zipped(checkpoint: bytes, member: str = "model.ckpt") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "latent diffusion")
        archive.writestr(member, checkpoint)
    return file.getvalue()


class Module:
    """Holds what a module's pickle holds, and no more."""

    def __init__(self, module: nn.Module):
        self.state = {
            "_parameters": dict(module.named_parameters(recurse=False)),
            "_modules": {name: Module(child) for name, child in module.named_children()},
        }

    def __reduce__(self):
        return Module, (), self.state


def openai(dvae: DVAE) -> dict[str, bytes]:
    """encoder.pkl and decoder.pkl. What package dall_e itself wrote is in tests/parity/data."""
    files = {}
    for part in ("encoder", "decoder"):
        file = io.BytesIO()
        torch.save(Module(getattr(dvae, part)), file, _use_new_zipfile_serialization=False)
        files[f"{part}.pkl"] = file.getvalue().replace(b"cpublished_files\nModule\n", b"cdall_e.utils\nConv2d\n")
    return files
