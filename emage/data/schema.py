"""The columns of the files that pass between stages, as pyarrow schemas; opening a token table's files."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.fs
import pyarrow.parquet as pq

from emage.utils import manifest, storage
from emage.utils.errors import InputError, first_line
from emage.utils.redact import redact_settings
from emage.utils.untrusted import plain_data
from emage.version import __version__

pc: Any = pyarrow.compute  # made at import, so that type checkers do not see its functions
TRAINED_COLUMNS = ("uid", "caption", "tokens")  # of a token table
MAX_VOCABULARY = 1 << 16  # tokens are uint16

# A shard of URLs: one row per URL and caption, as the download reads it.
URL_SCHEMA = pa.schema(
    [
        ("url", pa.string()),
        ("caption", pa.string()),
        ("dataset", pa.string()),
        ("address", pa.string()),  # of a stored image in its data set's input; null: the URL is fetched from the web
    ]
)

# A downloaded shard: one row per image, as the tokenizing stage reads it.
IMAGE_SCHEMA = pa.schema(
    [
        ("key", pa.string()),  # unique within an ingest: the number of the shard and the index of the row in it
        ("dataset", pa.string()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("image", pa.binary()),  # encoded JPEG, square, RGB
        ("width", pa.int32()),  # as downloaded, before resizing
        ("height", pa.int32()),
        ("sha256", pa.string()),  # of the downloaded bytes
    ]
)

# The dropped rows of a shard: those whose download failed, or that the tokenizing stage dropped.
DROPPED_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("dataset", pa.string()),
        ("url", pa.string()),
        ("caption", pa.string()),
        ("cause", pa.string()),  # the drop reason
    ]
)


@dataclass(frozen=True)
class TokenizerInfo:
    """The identity of a tokenizer, stored with the token table that it made and with a checkpoint.

    Attributes:
        name: The name by which emage.tokenizers.load loads it.
        sha256: Fingerprint of its weights (emage.tokenizers.weight_files.fingerprint).
        vocab_size: Number of codes.
        grid: Height and width of an image in tokens.
    """

    name: str
    sha256: str
    vocab_size: int
    grid: tuple[int, int]

    @property
    def num_tokens(self) -> int:
        """Return the number of tokens of an image."""
        return self.grid[0] * self.grid[1]


def token_schema(info: TokenizerInfo, version: str) -> pa.Schema:
    """Return the schema of a token table.

    Args:
        info: The tokenizer, stored as metadata of the schema.
        version: The release of emage that writes the table, stored likewise.
    """
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


TOKENIZER_KEYS = {"name": str, "sha256": str, "vocab_size": int, "grid": [int]}  # of the schema's metadata


def read_tokenizer_info(schema: pa.Schema) -> TokenizerInfo:
    """Return the tokenizer that the metadata of a token table's schema names. Raise ValueError if it names none."""
    metadata = schema.metadata or {}
    if b"emage.tokenizer" not in metadata:
        raise ValueError("no tokenizer in the schema metadata")
    try:
        values = plain_data.select(plain_data.parse_json(metadata[b"emage.tokenizer"].decode()), TOKENIZER_KEYS)
        info = TokenizerInfo(**{**values, "grid": tuple(values["grid"])})
        if not (0 < info.vocab_size <= MAX_VOCABULARY and len(info.grid) == 2 and min(info.grid) > 0):
            raise ValueError(f"vocab_size={info.vocab_size}, grid={info.grid}, which no tokenizer has")
        return info
    except (ValueError, TypeError, KeyError) as error:
        made_by = metadata.get(b"emage.version", b"an unknown version").decode(errors="replace")
        raise ValueError(f"made by emage {made_by}, this is emage {__version__}: {error}") from None


def open_token_table(path: str) -> tuple[list[str], TokenizerInfo]:
    """Return a token table's parquet files, sorted, and its tokenizer.

    Args:
        path: The table's folder, or its URI (s3://, gs://, hdfs://).

    Returns:
        The files as paths in the file system of `storage.find(path)`, and the tokenizer of the first file.

    Raises:
        InputError: The folder has no parquet file of a token table, or is unreachable.
    """
    filesystem, folder = storage.find(path)
    with storage.explain_errors(path):
        found = filesystem.get_file_info(pyarrow.fs.FileSelector(folder, allow_not_found=True))
    files = sorted(info.path for info in found if info.is_file and info.extension == "parquet")
    if not files:
        raise InputError(f"{redact_settings(path)}: no token table (*.parquet) here; pipelines/ingest.py writes one")
    with _explain_read_errors(files[0]):
        return files, read_tokenizer_info(pq.read_schema(files[0], filesystem=filesystem))


def fingerprint(path: str) -> str:
    """Return a digest that identifies a token table.

    The digest is that of the ingest's manifest, or of the files' names and sizes if there is no manifest.
    """
    filesystem, folder = storage.find(path)
    manifest_path = f"{folder}/_manifest.json"
    if filesystem.get_file_info(manifest_path).is_file:
        with filesystem.open_input_file(manifest_path) as file:
            return hashlib.sha256(file.read()).hexdigest()
    infos = filesystem.get_file_info(open_token_table(path)[0])
    return manifest.fingerprint([(info.base_name, info.size) for info in infos])


def read_footer(filesystem: pyarrow.fs.FileSystem, file: str, info: TokenizerInfo) -> pq.FileMetaData:
    """Return the parquet metadata of a file.

    Args:
        filesystem: Where the file is.
        file: Its path there.
        info: The tokenizer of the table's first file.

    Raises:
        InputError: The file is damaged, was made by another tokenizer, lacks a column that training reads, or has
            values that training cannot use.
    """
    with _explain_read_errors(file):
        metadata = pq.read_metadata(file, filesystem=filesystem)
        columns = metadata.schema.to_arrow_schema()
        other = read_tokenizer_info(columns)
    if other != info:
        raise InputError(f"{file} was made by {other}, the first file by {info}; keep one table per folder")
    expected = token_schema(info, "")
    for name in TRAINED_COLUMNS:
        if name not in columns.names or columns.field(name).type != expected.field(name).type:
            raise InputError(f"{file}: no column {name} of {expected.field(name).type}; pipelines/ingest.py writes it")
    for i in range(metadata.num_row_groups):
        _check_statistics(file, metadata.row_group(i), info)
    return metadata


def check_values(file: str, rows: pa.Table, info: TokenizerInfo) -> None:
    """Raise InputError if a column that training reads has a missing value, or a token is outside the vocabulary."""
    tokens = pc.list_flatten(rows["tokens"])
    for name in TRAINED_COLUMNS:
        _check_column(file, name, rows[name].null_count + (tokens.null_count if name == "tokens" else 0))
    _check_largest_token(file, pc.max(tokens).as_py(), info)


def _check_statistics(file: str, group: pq.RowGroupMetaData, info: TokenizerInfo) -> None:
    """Do what `check_values` does by the statistics in the footer, which other programs may leave out."""
    for i in range(group.num_columns):
        name, statistics = group.column(i).path_in_schema.partition(".")[0], group.column(i).statistics
        if statistics is None or name not in TRAINED_COLUMNS:
            continue
        if statistics.has_null_count:
            _check_column(file, name, statistics.null_count)
        if name == "tokens" and statistics.has_min_max:
            _check_largest_token(file, statistics.max, info)


def _check_column(file: str, name: str, missing: int) -> None:
    if missing:
        raise InputError(f"{file}: {missing} values of the column {name} are missing; leave such rows out of the table")


def _check_largest_token(file: str, largest: int | None, info: TokenizerInfo) -> None:
    if largest is not None and largest >= info.vocab_size:
        raise InputError(
            f"{file} has token {largest}, but the vocabulary of {info.name}, which the file names, is 0 to "
            f"{info.vocab_size - 1}: the tokens are of another tokenizer; make the table again with the right one"
        )


@contextmanager
def _explain_read_errors(file: str) -> Iterator[None]:
    """Turn an error about an unreadable file into an InputError that names the file."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = first_line(error)
        raise InputError(f"{file}: not a token table ({reason}); pipelines/ingest.py writes one") from None
