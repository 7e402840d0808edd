"""Published weights of metric networks: a local file or the cache; fetched only on request.

<cache>/metrics/FILE    as published, <cache> being $EMAGE_CACHE or ~/.cache/emage
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from emage.tokenizers import weights_cache
from emage.utils import manifest
from emage.utils.errors import InputError
from emage.utils.untrusted.safe_pickle import UNPICKLING_ERRORS, reason


@dataclass(frozen=True)
class PublishedWeights:
    """A published file of weights.

    Args:
        setting: The program's setting that takes a local file: setting=FILE.
        url: Where it is published.
        sha256: Its sha256.
        num_bytes: Its size; a download is not longer.
    """

    setting: str
    url: str
    sha256: str
    num_bytes: int

    @property
    def cached(self) -> Path:
        """Path of the file in the cache; it need not exist."""
        return cache_folder() / self.url.rpartition("/")[2]

    @property
    def how_to_get(self) -> str:
        """Instruction for messages."""
        return f"fetch {self.url} and pass {self.setting}=FILE, or add fetch=true"

    def matches(self, path: str | Path) -> bool:
        """Return whether the file is the published one, by its sha256."""
        return manifest.sha256(path) == self.sha256


def cache_folder() -> Path:
    """Return the folder in which weights of metric networks are cached."""
    return weights_cache.cache_folder().parent / "metrics"


def find(published: PublishedWeights, file: str | None, fetch: bool) -> Path | None:
    """Return the path of the weights: `file`, else the cached file, else with `fetch` a new download, else None.

    `file` may hold other weights than the published ones; reports state which they are (`describe`).

    Raises:
        InputError: `file` does not exist, or the cached file is damaged.
    """
    if file is not None:
        if not Path(file).is_file():
            raise InputError(f"{published.setting}={file}: no such file; {published.how_to_get}")
        return Path(file)
    path = published.cached
    if not path.exists():
        if not fetch:
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):  # two processes would write into the same partial file
            if not path.exists():
                weights_cache.download(published.url, path, published.num_bytes)
    if not published.matches(path):
        raise InputError(f"{path} is not what was published (sha256 {published.sha256}): delete it and fetch again")
    return path


def missing_package(package: str, error: ImportError) -> InputError:
    """Return the error for a package that cannot be imported."""
    return InputError(f'{package} cannot be imported ({error}): pip install "emage[pipelines]"')


def describe(published: PublishedWeights, path: Path | None) -> dict[str, Any]:
    """Return what reports state about the weights: sha256, whether they are published, or how to get missing ones."""
    if path is None:
        return {"sha256": None, "published": False, "missing": published.how_to_get}
    return {"sha256": manifest.sha256(path), "published": published.matches(path), "missing": None}


def read(path: str | Path) -> dict[str, Any]:
    """Return a state dict, without running code from the file.

    Raises:
        InputError: The file is damaged or does not hold a state dict.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, *UNPICKLING_ERRORS) as error:
        raise InputError(
            f"{path} cannot be loaded safely: damaged, or not a file of weights ({reason(error)})"
        ) from None
    if not isinstance(state, dict):
        raise InputError(f"{path} does not hold weights by name")
    return state
