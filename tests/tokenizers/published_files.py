"""Weights in the published forms."""

import io
import zipfile

import torch
from torch import nn


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
