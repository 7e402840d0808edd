"""Weights of the networks that judge images: a local file, or the cache; fetched only where that is asked for.

<cache>/metrics/FILE    as published, <cache> being $EMAGE_CACHE or ~/.cache/emage
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from emage.tokenizers import download
from emage.tokenizers.published_formats import UNPICKLING_ERRORS, reason
from emage.utils import manifest
from emage.utils.errors import InputError


@dataclass(frozen=True)
class Published:
    setting: str  # of the program: setting=FILE
    url: str
    digits: str  # that its sha256 begins with

    @property
    def cached(self) -> Path:
        return cache_folder() / self.url.rpartition("/")[2]

    @property
    def how_to_get(self) -> str:
        return f"fetch {self.url} and pass {self.setting}=FILE, or add fetch=true"

    def is_genuine(self, path: str | Path) -> bool:
        return manifest.sha256(path).startswith(self.digits)


def cache_folder() -> Path:
    return download.cache_folder().parent / "metrics"


def find(published: Published, file: str | None, fetch: bool) -> Path | None:
    """`file`, else the cached one, else with `fetch` a new download, else None. Raises InputError for a wrong file.

    A `file` of other weights is taken: whoever reports a figure says whether they are the published ones.
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
        with FileLock(f"{path}.lock"):  # two at once would write into one another's half a file
            if not path.exists():
                download.download(published.url, path)
    if not published.is_genuine(path):
        raise InputError(f"{path} is not what was published (sha256 {published.digits}...): delete it and fetch again")
    return path


def needs(package: str, error: ImportError) -> InputError:
    """What to say where the package of a judge's network is missing."""
    return InputError(f'{package} cannot be imported ({error}): pip install "emage[pipelines]"')


def facts(published: Published, path: Path | None) -> dict[str, Any]:
    """What a report says of the weights behind a figure; None of them: how to get them."""
    if path is None:
        return {"sha256": None, "published": False, "missing": published.how_to_get}
    return {"sha256": manifest.sha256(path), "published": published.is_genuine(path), "missing": None}


def read(path: str | Path) -> dict[str, Any]:
    """A published state dict. Nothing here runs code from a file. Raises InputError where there is none in it."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, *UNPICKLING_ERRORS) as error:
        raise InputError(f"{path} cannot be loaded safely: damaged, or no file of weights ({reason(error)})") from None
    if not isinstance(state, dict):
        raise InputError(f"{path} holds no weights by name")
    return state
