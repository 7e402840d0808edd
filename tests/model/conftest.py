"""A checkpoint that a test may change, and a hub on this machine."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import local_hub
import pytest
from huggingface_hub import constants
from local_hub import LocalHub


@pytest.fixture
def folder(tiny_model: Path, tmp_path: Path) -> Path:
    """Return the folder of a copy of `tiny_model`."""
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """Yield a local hub that the client uses instead of the real one, with an empty cache."""
    with local_hub.serving() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        address = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
