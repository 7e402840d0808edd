"""The cache of published weights: a file is downloaded once, converted to safetensors, and checked at every use.

    <cache>/tokenizers/NAME.safetensors           the weights; for a user's own file, NAME is its sha256
    <cache>/tokenizers/NAME.safetensors.sha256    written at first use; a file that differs later is rejected
    <cache>/tokenizers/NAME/FILE.sha256           the same for a published file, which is deleted after conversion; a
                                                  user who knows the sha256 writes it before the first download
    <cache>/tokenizers/NAME/FILE.part             an unfinished download; the next attempt resumes it

<cache> is $EMAGE_CACHE, else ~/.cache/emage. One process does the work, others wait for it.
"""

import hashlib
import os
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO

from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from emage.tokenizers.published_formats import read
from emage.tokenizers.weight_files import write
from emage.utils import manifest

BLOCK_BYTES = 1 << 20  # read at a time
TRUST_VARIABLE = "EMAGE_TRUST_FIRST_DOWNLOAD"  # environment variable
MAX_BYTES = 4 << 30  # of a published file; the largest has about 1 GB


def cache_folder() -> Path:
    """Return the folder of the tokenizers in the cache."""
    return Path(os.environ.get("EMAGE_CACHE") or "~/.cache/emage").expanduser() / "tokenizers"


def cached(name: str) -> Path:
    """Return the path of a published tokenizer's weights in the cache."""
    return cache_folder() / f"{name}.safetensors"


def fetch(name: str, urls: dict[str, str], sha256: dict[str, str]) -> Path:
    """Return the cached safetensors of a published tokenizer, downloaded and converted if it is not in the cache.

    Args:
        name: The tokenizer's name in TOKENIZERS.
        urls: File name -> URL. Several files together are one tokenizer, read as a folder.
        sha256: File name -> its sha256, for those that are known.

    Raises:
        ConnectionError: The download failed, the server sent something else, or nothing says what it should send.
        ValueError: A file in the cache has changed.
    """
    folder = cache_folder() / name
    folder.mkdir(parents=True, exist_ok=True)
    converted = cached(name)
    files = [folder / file for file in urls]
    with FileLock(f"{converted}.lock"):
        if not converted.exists():
            for file in files:
                _check_known(name, file, urls[file.name], sha256)
            for file in files:
                if not file.exists():
                    download(urls[file.name], file)
                _check_download(file, sha256)
            tensors = read_download(name, folder, files)
            for file in files:
                pin(file)  # only now: the sha256 of a file that is not a checkpoint would make the next attempt fail
            write(tensors, converted)
            for file in files:
                file.unlink()
        pin(converted)
    return converted


def _check_known(name: str, file: Path, url: str, known: dict[str, str]) -> None:
    """Raise ConnectionError if there is nothing to compare a download with, unless the user trusts it."""
    sidecar = file.with_name(f"{file.name}.sha256")
    if file.name in known or sidecar.exists() or os.environ.get(TRUST_VARIABLE) == "1":
        return
    raise ConnectionError(
        f"{name} is not downloaded: its publisher states no sha256 of {file.name} ({url}). Pass a file that you trust "
        f"(weights=), write its sha256 into {sidecar}, or set {TRUST_VARIABLE}=1 to trust the first download"
    )


def _check_download(file: Path, known: dict[str, str]) -> None:
    """Delete a downloaded file that is not what was published, and raise ConnectionError."""
    if (expected := known.get(file.name)) and (actual := manifest.sha256(file)) != expected:
        file.unlink()
        raise ConnectionError(f"{file.name} has the sha256 {actual}, and {expected} was published; try again later")


def read_download(name: str, folder: Path, files: list[Path]) -> dict[str, Tensor]:
    """Return the tensors of downloaded files. Delete files that cannot be read, such as a log-in page.

    Raises:
        ConnectionError: A file cannot be read. The server is at fault, not the user.
    """
    try:
        return read(folder if len(files) > 1 else files[0])
    except ValueError as error:
        received = "; ".join(f"{file.name}: {file.stat().st_size} bytes, {_beginning(file)}" for file in files)
        for file in files:
            file.unlink()
        form = "FILE" if len(files) == 1 else "FOLDER"
        raise ConnectionError(
            f"the server sent no checkpoint of {name} ({received}); try again later or fetch it by hand and pass "
            f"weights={form}"
        ) from error


def _beginning(path: Path) -> str:
    with open(path, "rb") as file:
        return f"which begin with {file.read(20)!r}"


def convert(path: str | Path) -> Path:
    """Return the cached safetensors made from a published file (or folder) of the user, converted if necessary.

    The name in the cache depends on the file's content: a file that was changed in place is converted again.
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
    """Record a file's sha256 next to it at first use, compare it later; return it. Raise ValueError if it differs."""
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


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but not from https to anything else: that would give up what TLS protects."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.startswith(("https://", f"{req.type}://")):
            raise ConnectionError(f"it redirects to {newurl.partition('?')[0]}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def download(url: str, path: Path, max_bytes: int = MAX_BYTES) -> None:
    """Download an http(s) URL to a temporary name and rename it to `path`, resuming an unfinished download.

    Raises:
        ConnectionError: The download failed, or the file is longer than `max_bytes`. The next call resumes it, or
            starts at the beginning.
    """
    part = path.with_name(path.name + ".part")
    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.build_opener(_SafeRedirects).open(request, timeout=60) as answer:
            if answer.status != 206:  # the server does not support ranges and starts over
                done = 0
            length = answer.headers.get("Content-Length")
            total = done + int(length) if length else None
            bar = tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=path.stem)
            with bar, open(part, "ab" if done else "wb") as file:
                while done <= max_bytes and (block := answer.read(BLOCK_BYTES)):
                    done += file.write(block)
                    bar.update(len(block))
    except urllib.error.HTTPError as error:
        if error.code != 416 or not done:  # 416: nothing is left to send, the file is complete
            raise ConnectionError(f"{url} answered {error.code} {error.reason}") from error
        total = None
    except OSError as error:
        raise ConnectionError(f"{url} failed ({error}); the part received is kept, call again to resume") from error
    if part.stat().st_size > max_bytes:
        part.unlink()
        raise ConnectionError(f"{url} sends more than the {max_bytes:,} bytes of what was published; try again later")
    if total is not None and part.stat().st_size != total:
        raise ConnectionError(f"{url} ended after {part.stat().st_size} of {total} bytes; call again to resume")
    part.replace(path)
