"""The files that pass between stages: their columns as pyarrow schemas, and what a token table says of itself."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from emage.errors import InputError

# One row of a shard of URLs, as the download reads it.
URL = pa.schema([("url", pa.string()), ("caption", pa.string()), ("dataset", pa.string())])

# One row a picture of a downloaded shard, as the tokenizing stage reads it.
PICTURE = pa.schema(
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
    """A token table's parquet files in order, and its tokenizer. Raises InputError where `path` holds none."""
    folder = Path(path)
    files = sorted(str(file) for file in folder.glob("*.parquet")) if folder.is_dir() else []
    if not files:
        raise InputError(f"{path}: no token table (*.parquet) here; pipelines/ingest.py writes one")
    try:
        return files, tokenizer_of(pq.read_schema(files[0]))
    except (pa.ArrowInvalid, ValueError) as error:
        raise InputError(f"{files[0]}: not a token table ({error}); pipelines/ingest.py writes one") from None
