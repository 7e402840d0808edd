"""Weights in the published file formats, for tests."""

import io
import zipfile

import torch
from torch import nn

from emage.tokenizers.dvae import DVAE


def lightning(model: nn.Module, **entries) -> bytes:
    """Return a checkpoint as Lightning writes it, with weights of a training loss in it."""
    state = dict(model.state_dict()) | {"loss.perceptual_loss.weight": torch.zeros(3)}
    file = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3, "optimizer_states": [], "callbacks": {}} | entries, file)
    return file.getvalue()


def zipped(checkpoint: bytes, member: str = "model.ckpt") -> bytes:
    """Return a zip with the checkpoint inside, as latent-diffusion publishes it."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("readme.txt", "latent diffusion")
        archive.writestr(member, checkpoint)
    return file.getvalue()


class Module:
    """Pickles to the same content as a module of torch."""

    def __init__(self, module: nn.Module):
        self.state = {
            "_parameters": dict(module.named_parameters(recurse=False)),
            "_modules": {name: Module(child) for name, child in module.named_children()},
        }

    def __reduce__(self):
        return Module, (), self.state


def openai(dvae: DVAE) -> dict[str, bytes]:
    """Return encoder.pkl and decoder.pkl by name. Files that package dall_e itself wrote are in tests/parity/data."""
    files = {}
    for part in ("encoder", "decoder"):
        file = io.BytesIO()
        torch.save(Module(getattr(dvae, part)), file, _use_new_zipfile_serialization=False)
        files[f"{part}.pkl"] = file.getvalue().replace(b"cpublished_files\nModule\n", b"cdall_e.utils\nConv2d\n")
    return files
