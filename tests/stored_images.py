"""Images on disk for tests of ingest: small files of every format, each of another colour."""

import io
from collections import Counter
from pathlib import Path
from typing import Any

from PIL import Image

from emage.config import SourceConfig
from emage.data.ingest.sources import kinds


def encoded(colour: int, format: str = "PNG", size: tuple[int, int] = (40, 32), **options: Any) -> bytes:
    """Return an image of one colour, by a number up to 255, as a file."""
    file = io.BytesIO()
    Image.new("RGB", size, (colour, 255 - colour, colour // 2)).save(file, format, **options)
    return file.getvalue()


def write(path: Path, content: bytes | str) -> None:
    """Write a file and the folders that it is in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def read_all(source: SourceConfig) -> tuple[list[dict[str, Any]], Counter[str]]:
    """Return the rows of an input and the dropped ones by reason; what the reader met is what the survey counts."""
    source = kinds.resolve(source)
    kinds.check(source)
    files = kinds.find_files(source)
    dropped, entries = Counter[str](), Counter[str]()
    parts = kinds.split(source, files)
    batches = [batch for part in parts for batch in kinds.read(source, part, dropped, entries)]
    assert entries == {files.name_of(path): kinds.survey(source, path)["rows"] for path in files.paths}
    return [row for batch in batches for row in batch.to_pylist()], +dropped


def captions(source: SourceConfig) -> dict[str, list[str]]:
    """Return the captions of an input by the address of their image."""
    found: dict[str, list[str]] = {}
    for row in read_all(source)[0]:
        found.setdefault(row["address"], []).append(row["caption"])
    return found
