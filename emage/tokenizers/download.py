"""The cache of published weights: each file is fetched once, checked at every use, and kept as safetensors.

    <cache>/tokenizers/NAME.safetensors           what is loaded
    <cache>/tokenizers/NAME.safetensors.sha256    written at first use; a file that no longer fits it is refused
    <cache>/tokenizers/NAME.download.sha256       the same for the published file, which is deleted once converted
    <cache>/tokenizers/NAME.download.part         a download under way; the next try goes on from its end

<cache> is $EMAGE_CACHE, else ~/.cache/emage.
"""

import os
import shutil
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from emage import manifest
from emage.tokenizers.weights import read, write

BLOCK = 1 << 20  # bytes


def cache_folder() -> Path:
    return Path(os.environ.get("EMAGE_CACHE") or Path.home() / ".cache" / "emage") / "tokenizers"


def fetch(name: str, url: str, member: str | None = None) -> Path:
    """The cached safetensors of a published tokenizer, downloaded and converted if it is not there.

    url leads to a Lightning checkpoint, or to a zip with one as `member`.
    """
    folder = cache_folder()
    converted = folder / f"{name}.safetensors"
    if converted.exists():
        pin(converted)
        return converted
    folder.mkdir(parents=True, exist_ok=True)
    published = folder / f"{name}.download"
    if not published.exists():
        download(url, published)
    pin(published)
    checkpoint = unzip(published, member, folder / f"{name}.ckpt") if member else published
    write(read(checkpoint), converted)
    pin(converted)
    published.unlink()
    checkpoint.unlink(missing_ok=True)
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
            f"Delete it to fetch it again; delete {sidecar.name} too if the change is wanted."
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


def unzip(archive: Path, member: str, path: Path) -> Path:
    with zipfile.ZipFile(archive) as files, files.open(member) as source, open(path, "wb") as target:
        shutil.copyfileobj(source, target)
    return path
