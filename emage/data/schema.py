"""The files that pass between stages: their columns as pyarrow schemas, and what a token table says of itself."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from emage.utils import manifest, storage
from emage.utils.errors import InputError
from emage.utils.redact import redact

# One row of a shard of URLs, as the download reads it.
URL = pa.schema([("url", pa.string()), ("caption", pa.string()), ("dataset", pa.string())])

# One row an image of a downloaded shard, as the tokenizing stage reads it.
IMAGE = pa.schema(
    [
        ("key", pa.string()),  # unique within an ingest: shard number and place in the shard
        ("dataset", pa.string()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("image", pa.binary()),  # encoded JPEG, square, RGB
        ("width", pa.int32()),  # as downloaded, before resizing
        ("height", pa.int32()),
        ("sha256", pa.string()),  # of the downloaded bytes
    ]
)


@dataclass(frozen=True)
class TokenizerInfo:
    """Which tokenizer made a token table, or belongs to a checkpoint. `sha256` is its weights' fingerprint."""

    name: str
    sha256: str
    vocab_size: int
    grid: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        return self.grid[0] * self.grid[1]


def token_table(info: TokenizerInfo, version: str) -> pa.Schema:
    """Schema of the token table: plain Arrow types, the tokenizer's identity as schema metadata."""
    return pa.schema(
        [
            ("uid", pa.int64()),  # unique over all data sets
            ("dataset", pa.string()),
            ("key", pa.string()),
            ("url", pa.string()),
            ("caption", pa.string()),
            ("tokens", pa.list_(pa.uint16(), info.num_tokens)),
            ("width", pa.int32()),
            ("height", pa.int32()),
            ("sha256", pa.string()),
        ],
        metadata={"emage.tokenizer": json.dumps(asdict(info)), "emage.version": version},
    )


def tokenizer_of(schema: pa.Schema) -> TokenizerInfo:
    """The tokenizer recorded in a token table's schema. Raises ValueError where there is none."""
    text = (schema.metadata or {}).get(b"emage.tokenizer")
    if text is None:
        raise ValueError("no tokenizer in the schema metadata")
    values = json.loads(text)
    return TokenizerInfo(**{**values, "grid": tuple(values["grid"])})


def open_token_table(path: str) -> tuple[list[str], TokenizerInfo]:
    """A token table's parquet files in order, and its tokenizer. Raises InputError where `path` holds none.

    `path` is a folder or a URI of one (s3://, gs://, hdfs://); the files are paths of `storage.find(path)`'s system.
    """
    filesystem, folder = storage.find(path)
    try:
        found = filesystem.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
    except (pa.ArrowException, OSError) as error:
        raise InputError(redact(f"{path}: {storage.first_line(error)}")) from None
    files = sorted(info.path for info in found if info.is_file and info.extension == "parquet")
    if not files:
        raise InputError(f"{redact(path)}: no token table (*.parquet) here; pipelines/ingest.py writes one")
    with _readable(files[0]):
        return files, tokenizer_of(pq.read_schema(files[0], filesystem=filesystem))


def fingerprint(path: str) -> str:
    """What tells one token table from another: its ingest's own manifest, or the files' names and sizes."""
    filesystem, folder = storage.find(path)
    made = f"{folder}/_manifest.json"
    if filesystem.get_file_info(made).is_file:
        with filesystem.open_input_file(made) as file:
            return hashlib.sha256(file.read()).hexdigest()
    infos = filesystem.get_file_info(open_token_table(path)[0])
    return manifest.fingerprint([(info.base_name, info.size) for info in infos])


def footer(filesystem: pyarrow.fs.FileSystem, file: str, info: TokenizerInfo) -> pq.FileMetaData:
    """What a file says of its row groups. Raises InputError where it is no part of the token table of `info`."""
    with _readable(file):
        metadata = pq.read_metadata(file, filesystem=filesystem)
        columns = metadata.schema.to_arrow_schema()
        other = tokenizer_of(columns)
    if other != info:
        raise InputError(f"{file} is of {other}, the table's first file of {info}; keep one table to a folder")
    expected = token_table(info, "")
    for name in ("uid", "caption", "tokens"):
        if name not in columns.names or columns.field(name).type != expected.field(name).type:
            raise InputError(f"{file}: no column {name} of {expected.field(name).type}; pipelines/ingest.py writes it")
    return metadata


@contextmanager
def _readable(file: str) -> Iterator[None]:
    """What is raised about a file that cannot be read becomes an InputError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = storage.first_line(error)
        raise InputError(f"{file}: not a token table ({reason}); pipelines/ingest.py writes one") from None
