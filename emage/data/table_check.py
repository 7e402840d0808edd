"""A token table compared with its manifest, once before it is used: no file is missing, damaged or of another table.

The manifest has a digest of each file's footer. What a footer does not cover, the pages, have checksums of their own,
which every reader compares as it reads them: a table of any size is checked without reading all of it first. The files
of a table whose manifest has no such digests are read once from beginning to end, and compared with their sha256.
"""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs
from tqdm import tqdm

from emage.data import schema
from emage.utils import storage
from emage.utils.errors import InputError, first_line
from emage.utils.redact import redact_settings

MANIFEST = "_manifest.json"  # readers of the folder as one table skip names that begin with an underscore
NUM_READERS = 8  # threads: hashing takes half a second per GB and lets other threads run
BLOCK_BYTES = 8 << 20


def check_table(path: str) -> None:
    """Compare a token table with its manifest; a table without one, of another program, is not compared.

    Args:
        path: The table's folder, or its URI.

    Raises:
        InputError: A file is missing, is damaged, or is not in the manifest; or the manifest itself is damaged.
    """
    filesystem, folder = storage.find(path)
    listed = _listed_files(filesystem, f"{folder}/{MANIFEST}")
    if listed is None:
        return
    found = {file.rpartition("/")[2]: file for file in schema.open_token_table(path)[0]}
    where = redact_settings(path)
    for name in sorted(listed.keys() ^ found.keys()):
        if name in listed:
            raise InputError(f"{where}: {name} is missing, which {MANIFEST} lists; put it back, or ingest again")
        raise InputError(f"{where}: {name} is no part of this table, by {MANIFEST}; move it to another folder")
    with ThreadPoolExecutor(NUM_READERS) as pool:
        results = pool.map(lambda name: _is_whole(filesystem, found[name], listed[name]), sorted(found))
        bar = tqdm(results, "checking the token table", len(found), unit=" files", delay=2, leave=False)
        for name, is_whole in zip(sorted(found), bar, strict=True):
            if not is_whole:
                raise InputError(
                    f"{found[name]} is damaged: it is not the file that {MANIFEST} next to it lists; put a whole copy "
                    "back, or delete the table's folder and ingest again"
                )


def footer_sha256(path: str | Path, filesystem: pyarrow.fs.FileSystem | None = None) -> str:
    """Return the sha256 of a parquet file's footer with its length; "" if the file has no footer.

    Args:
        path: The file.
        filesystem: Where it is; None: on this machine.
    """
    with (filesystem or pyarrow.fs.LocalFileSystem()).open_input_file(str(path)) as file:
        size = file.size()
        end = file.read_at(min(8, size), max(0, size - 8))
        length = int.from_bytes(end[:4], "little") + 8
        if end[4:] != b"PAR1" or length > size:
            return ""
        return hashlib.sha256(file.read_at(length, size - length)).hexdigest()


def _listed_files(filesystem: pyarrow.fs.FileSystem, path: str) -> dict[str, dict[str, Any]] | None:
    """Return the entries of a manifest by file name, None if there is no manifest."""
    if not filesystem.get_file_info(path).is_file:
        return None
    try:
        with filesystem.open_input_file(path) as file:
            return {entry["name"]: entry for entry in json.loads(file.read())["files"]}
    except (pa.ArrowException, OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(
            f"{redact_settings(path)} is damaged ({first_line(error)}); put a whole copy back, or ingest again"
        ) from None


def _is_whole(filesystem: pyarrow.fs.FileSystem, file: str, entry: dict[str, Any]) -> bool:
    try:
        if "footer" in entry:
            return footer_sha256(file, filesystem) == entry["footer"]
        digest = hashlib.sha256()
        with filesystem.open_input_stream(file) as stream:
            while block := stream.read(BLOCK_BYTES):
                digest.update(block)
        return digest.hexdigest() == entry["sha256"]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file}: cannot be read ({first_line(error)}); try again, or put it back") from None
