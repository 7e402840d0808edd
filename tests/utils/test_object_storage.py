"""Tables in object storage: a real S3 server on 127.0.0.1, read through the same URIs as a bucket in the cloud."""

import gzip
import hashlib
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import local_bucket
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from url_tables import count_rows

from emage.config import SourceConfig
from emage.data.ingest import url_table
from emage.data.ingest.tables import row_count, table_files
from emage.data.token_table import TokenTable
from emage.utils import storage
from emage.utils.errors import InputError

ROWS = [(f"http://a.test/{i}.jpg", f'image {i}, "öäü"') for i in range(5_000)]
CSV = "url,caption\n" + "".join(f'{url},"{caption.replace(chr(34), 2 * chr(34))}"\n' for url, caption in ROWS)


def parquet(rows: list[tuple[str, str]]) -> bytes:
    urls, captions = zip(*rows, strict=True)
    file = io.BytesIO()
    pq.write_table(pa.table({"url": urls, "caption": captions}), file, row_group_size=700)
    return file.getvalue()


OBJECTS = {
    "one.parquet": parquet(ROWS),
    "one.csv": CSV.encode(),
    "one.csv.gz": gzip.compress(CSV.encode()),
    "folder/b/00001.parquet": parquet(ROWS[3_000:]),
    "folder/a/00000.parquet": parquet(ROWS[:3_000]),
    "folder/_SUCCESS": b"",
    "broken.parquet": b"PAR1, it says, and then nothing of the kind",
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """host:port of an S3 server whose bucket "tables" holds OBJECTS."""
    with local_bucket.serving("tables", OBJECTS) as address:
        yield address


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    local_bucket.set_credentials(monkeypatch)


def source(address: str, path: str) -> SourceConfig:
    return SourceConfig(table=f"s3://{path}?endpoint_override={address}&scheme=http")


def line(config: SourceConfig) -> str:
    """Return the message for a table that cannot be read."""
    with pytest.raises(InputError) as error:
        url_table.check(config)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", ["one.parquet", "one.csv", "one.csv.gz", "folder", "folder/"])
def test_tables_in_a_bucket(address, path):
    config = source(address, f"tables/{path}")
    url_table.check(config)
    parts = url_table.split(config, table_files.find_files(config))
    found = [row for part in parts for batch in url_table.read(config, part) for row in batch.to_pylist()]
    assert [(row["url"], row["caption"]) for row in found] == ROWS


@pytest.mark.parametrize("path", ["one.parquet", "one.csv", "folder"])
def test_rows_and_files_are_known_before_reading(address, path):
    config = source(address, f"tables/{path}")
    assert count_rows(config) == len(ROWS)
    expected = [key for key in sorted(OBJECTS) if key == path or (key.startswith(f"{path}/") and "_" not in key)]
    files = table_files.find_files(config)
    assert [info.size for info in files.infos] == [len(OBJECTS[key]) for key in expected]
    assert [files.name_of(file) for file in files.paths] == [
        key.removeprefix("folder/" if path == "folder" else "") for key in expected
    ]
    digests = [row_count.survey(config, file)["sha256"] for file in files.paths]
    assert digests == [hashlib.sha256(OBJECTS[key]).hexdigest() for key in expected]


@pytest.mark.parametrize("path", ["tables/none.parquet", "tables/none", "no-such-bucket/one.parquet", "no-such-bucket"])
def test_missing_key_or_bucket(address, path):
    assert f"s3://{path}" in line(source(address, path))
    assert "no such file or folder" in line(source(address, path))


def test_broken_object(address):
    assert "tables/broken.parquet: not a readable parquet file" in line(source(address, "tables/broken.parquet"))


# Port 1 of this machine, on which no server listens.
UNREACHABLE = [
    "s3://bucket/one.parquet?endpoint_override=127.0.0.1:1&scheme=http",
    "gs://anonymous@bucket/one.parquet?endpoint_override=127.0.0.1:1&scheme=http&retry_limit_seconds=1",
    "hdfs://127.0.0.1:1/one.parquet",  # without Java and Hadoop it is their absence that the line is about
]


@pytest.mark.parametrize("table", UNREACHABLE)
def test_unreachable_storage(table):
    said = line(SourceConfig(table=table))
    assert said.startswith(table.partition("://")[0]) and "one.parquet" in said


INVALID = [
    "s3:///one.parquet",
    "ftp://a.test/one.parquet",
    "s3://bucket/one.parquet?colour=red",
    "hf://one.parquet",  # the client of Hugging Face raises a ValueError
    "http://a.test/one.parquet",
    "https://a.test/one.csv",
]


@pytest.mark.parametrize("table", INVALID)
def test_invalid_addresses(table):
    assert line(SourceConfig(table=table)).startswith(table)


@pytest.mark.parametrize("error", [RuntimeError("no network\nin two lines"), KeyError("x"), TimeoutError()])
def test_any_error_of_a_storage_client_is_one_line(error):
    with pytest.raises(InputError) as raised, storage.explain_errors("hf://key@datasets/a/b"):
        raise error
    assert str(raised.value).startswith("hf://***@datasets/a/b: ") and "\n" not in str(raised.value)


@pytest.mark.parametrize("secret", ["secret", "sec/ret", "se%cret"])
def test_a_secret_in_an_address_is_in_no_message(secret):
    said = line(
        SourceConfig(table=f"s3://AKIAKEY:{secret}@bucket/one.parquet?endpoint_override=127.0.0.1:1&colour=red")
    )
    assert secret not in said and "AKIAKEY" not in said


# --- Token tables -----------------------------------------------------------------------------------------------------


@pytest.fixture
def tokens_uri(address: str, token_table: Path) -> Iterator[str]:
    """The token table of the tests, copied into the bucket."""
    uri = f"s3://tables/tokens?endpoint_override={address}&scheme=http"
    filesystem, path = storage.find(uri)
    pyarrow.fs.copy_files(str(token_table), path, destination_filesystem=filesystem)
    yield uri
    filesystem.delete_dir(path)


def said_of(uri: str) -> str:
    """Return the message for a token table that cannot be read."""
    with pytest.raises(InputError) as error:
        TokenTable(uri, seed=0)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_token_table_in_a_bucket_gives_the_rows_of_the_same_files_here(tokens_uri, token_table):
    here, there = TokenTable(str(token_table), seed=3), TokenTable(tokens_uri, seed=3)
    assert there.tokenizer == here.tokenizer and there.num_rows == 200
    for step in (0, 1, 7, 8, 9, 100):
        ours, theirs = here.batch(step, 24, rank=1, world_size=2), there.batch(step, 24, rank=1, world_size=2)
        assert theirs.uid == ours.uid and theirs.captions == ours.captions and theirs.seeds == ours.seeds
        assert theirs.y.equal(ours.y)


def test_objects_of_a_token_table_that_vanish_or_are_damaged(tokens_uri, monkeypatch):
    filesystem, path = storage.find(tokens_uri)
    table = TokenTable(tokens_uri, seed=0, groups_in_memory=1)
    for info in filesystem.get_file_info(pyarrow.fs.FileSelector(path)):
        filesystem.delete_file(info.path)
    monkeypatch.setattr("emage.data.token_table.RETRY_PAUSES_S", (0.0, 0.0))
    with pytest.raises(InputError, match=r"^tables/tokens/0000\d\.parquet: cannot be read"):
        table.batch(0, 8)
    assert said_of(tokens_uri).startswith(f"{tokens_uri}: no token table (*.parquet) here")
    with filesystem.open_output_stream(f"{path}/0.parquet", compression=None) as stream:
        stream.write(OBJECTS["broken.parquet"])
    assert "tables/tokens/0.parquet: not a token table" in said_of(tokens_uri)


def test_a_process_that_reads_from_a_bucket_ends(tokens_uri):
    source = f"from emage.data.token_table import TokenTable\nTokenTable({tokens_uri!r}, seed=0).batch(0, 8)"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_no_token_table_in_a_bucket(address):
    for path in ("tables/none", "no-such-bucket/tokens"):
        assert "no token table (*.parquet) here" in said_of(source(address, path).table)


@pytest.mark.parametrize("uri", [*UNREACHABLE, "ftp://a.test/tokens", "s3://bucket/tokens?colour=red"])
def test_unreachable_token_tables(uri):
    assert said_of(uri).startswith(uri.partition("?")[0].replace("anonymous@", "***@"))


def test_a_secret_in_a_token_tables_address_is_in_no_message(address):
    for rest in ("none", "tokens?colour=red"):
        end = f"{'&' if '?' in rest else '?'}endpoint_override={address}&scheme=http"
        said = said_of(f"s3://AKIAKEY:sec/ret@tables/{rest}{end}")
        assert "sec" not in said and "AKIAKEY" not in said
