"""The cache of published weights: each file is fetched once, checked at every use, and kept as safetensors.

    <cache>/tokenizers/NAME.safetensors           what is loaded; NAME is the sha256 of a file of the user's own
    <cache>/tokenizers/NAME.safetensors.sha256    written at first use; a file that no longer fits it is refused
    <cache>/tokenizers/NAME/FILE.sha256           the same for a published file, which is deleted once converted
    <cache>/tokenizers/NAME/FILE.part             a download under way; the next try goes on from its end

<cache> is $EMAGE_CACHE, else ~/.cache/emage. Of several processes one does the work and the others wait for it.
"""

import hashlib
import os
import urllib.error
import urllib.request
from pathlib import Path

from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from emage.tokenizers.published_formats import read
from emage.tokenizers.weight_files import write
from emage.utils import manifest

BLOCK = 1 << 20  # bytes


def cache_folder() -> Path:
    return Path(os.environ.get("EMAGE_CACHE") or Path.home() / ".cache" / "emage") / "tokenizers"


def cached(name: str) -> Path:
    """Where a published tokenizer lies once it was fetched."""
    return cache_folder() / f"{name}.safetensors"


def fetch(name: str, urls: dict[str, str]) -> Path:
    """The cached safetensors of a published tokenizer, downloaded and converted if it is not there.

    urls: file name -> where it is. Several files together are one tokenizer, read as a folder.
    """
    folder = cache_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    converted = cached(name)
    files = [folder / file for file in urls]
    with FileLock(f"{converted}.lock"):
        if not converted.exists():
            for file in files:
                if not file.exists():
                    download(urls[file.name], file)
            tensors = read_download(name, folder, files)
            for file in files:
                pin(file)  # only now: a sha256 of something else than a checkpoint would be held against the next try
            write(tensors, converted)
            for file in files:
                file.unlink()
        pin(converted)
    return converted


def read_download(name: str, folder: Path, files: list[Path]) -> dict[str, Tensor]:
    """The tensors of what a server sent. What cannot be read (a log-in page, say) is deleted: another call asks again.

    Raises ConnectionError, as `download` does: neither the user's file nor the user's doing is at fault.
    """
    try:
        return read(folder if len(files) > 1 else files[0])
    except ValueError as error:
        came = "; ".join(f"{file.name}: {file.stat().st_size} bytes, {_beginning(file)}" for file in files)
        for file in files:
            file.unlink()
        form = "FILE" if len(files) == 1 else "FOLDER"
        raise ConnectionError(
            f"the server sent no checkpoint of {name} ({came}); try again later or fetch it by hand and pass "
            f"weights={form}"
        ) from error


def _beginning(path: Path) -> str:
    with open(path, "rb") as file:
        return f"which begin with {file.read(20)!r}"


def convert(path: str | Path) -> Path:
    """The cached safetensors of a published file (or folder) of the user's own, made where it is not there.

    It is found by the file's content: a file that changed in place, even within the clock's tick, is another one.
    """
    path = Path(path)
    parts = sorted(path.glob("*.pkl")) if path.is_dir() else [path]
    content = hashlib.sha256("".join(manifest.sha256(part) for part in parts).encode()).hexdigest()
    converted = cache_folder() / f"{content}.safetensors"
    converted.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{converted}.lock"):
        if not converted.exists():
            write(read(path), converted)
        pin(converted)
    return converted


def pin(path: Path) -> str:
    """The file's sha256: recorded beside it at first sight, compared ever after."""
    actual = manifest.sha256(path)
    sidecar = path.with_name(path.name + ".sha256")
    if not sidecar.exists():
        sidecar.write_text(f"{actual}  {path.name}\n")  # as sha256sum writes it
        return actual
    expected = sidecar.read_text().split()[0]
    if actual != expected:
        raise ValueError(
            f"{path} changed: sha256 {actual}, first seen as {expected}. "
            f"Delete it to have it made again; delete {sidecar.name} too if the change is wanted."
        )
    return actual


def download(url: str, path: Path) -> None:
    """Fetches url to path under a temporary name, going on where an earlier try stopped."""
    part = path.with_name(path.name + ".part")
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            if answer.status != 206:  # the server knows no ranges and starts over
                done = 0
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else None
            bar = tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=path.stem)
            with bar, open(part, "ab" if done else "wb") as file:
                while block := answer.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:  # 416: nothing is left to send, the part is whole
            raise ConnectionError(f"{url} answered {error.code} {error.reason}") from error
        total = None
    except OSError as error:
        raise ConnectionError(f"{url} failed ({error}); what came is kept, call again to go on") from error
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"{url} broke off at {part.stat().st_size} of {total} bytes; call again to go on")
    part.replace(path)
