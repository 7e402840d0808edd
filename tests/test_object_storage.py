"""URL tables in object storage: a real S3 server on 127.0.0.1, read through the same URIs as a bucket in the cloud."""

import gzip
import io
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from emage import sources
from emage.config import SourceConfig
from emage.errors import InputError

ROWS = [(f"http://a.test/{i}.jpg", f'picture {i}, "öäü"') for i in range(5_000)]
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
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    bucket = pyarrow.fs.S3FileSystem(
        access_key="key",
        secret_key="secret",
        region="us-east-1",
        scheme="http",
        endpoint_override=f"{host}:{port}",
        allow_bucket_creation=True,
    )
    bucket.create_dir("tables")
    for key, content in OBJECTS.items():
        with bucket.open_output_stream(f"tables/{key}", compression=None) as stream:
            stream.write(content)
    yield f"{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of nobody, and no question to the address that knows a cloud machine's."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_PROFILE", raising=False)


def source(address: str, path: str) -> SourceConfig:
    return SourceConfig(table=f"s3://{path}?endpoint_override={address}&scheme=http")


def line(config: SourceConfig) -> str:
    """What a user reads about a table that can't be read."""
    with pytest.raises(InputError) as error:
        sources.check(config)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("path", ["one.parquet", "one.csv", "one.csv.gz", "folder", "folder/"])
def test_tables_in_a_bucket(address, path):
    config = source(address, f"tables/{path}")
    sources.check(config)
    parts = sources.parts(config)
    found = [row for part in parts for batch in sources.read(config, part) for row in batch.to_pylist()]
    assert [(row["url"], row["caption"]) for row in found] == ROWS


@pytest.mark.parametrize("path", ["one.parquet", "one.csv", "folder"])
def test_rows_and_files_are_known_before_reading(address, path):
    config = source(address, f"tables/{path}")
    assert sources.count(config) == len(ROWS)
    expected = [key for key in sorted(OBJECTS) if key == path or (key.startswith(f"{path}/") and "_" not in key)]
    assert sources.describe(config) == [[key.rpartition("/")[2], len(OBJECTS[key])] for key in expected]


@pytest.mark.parametrize("path", ["tables/none.parquet", "tables/none", "no-such-bucket/one.parquet", "no-such-bucket"])
def test_missing_key_or_bucket(address, path):
    assert f"s3://{path}" in line(source(address, path))
    assert "no such file or folder" in line(source(address, path))


def test_broken_object(address):
    assert "tables/broken.parquet: not a readable parquet file" in line(source(address, "tables/broken.parquet"))


# Port 1 of this machine, where nobody listens.
UNREACHABLE = [
    "s3://bucket/one.parquet?endpoint_override=127.0.0.1:1&scheme=http",
    "gs://anonymous@bucket/one.parquet?endpoint_override=127.0.0.1:1&scheme=http&retry_limit_seconds=1",
    "hdfs://127.0.0.1:1/one.parquet",  # without Java and Hadoop it is their absence that the line is about
]


@pytest.mark.parametrize("table", UNREACHABLE)
def test_storage_out_of_reach(table):
    said = line(SourceConfig(table=table))
    assert said.startswith(table.partition("://")[0]) and "one.parquet" in said


@pytest.mark.parametrize(
    "table", ["s3:///one.parquet", "ftp://a.test/one.parquet", "s3://bucket/one.parquet?colour=red"]
)
def test_address_that_makes_no_sense(table):
    assert line(SourceConfig(table=table)).startswith(table)


@pytest.mark.parametrize("secret", ["secret", "sec/ret", "se%cret"])
def test_a_secret_in_an_address_is_in_no_message(secret):
    said = line(
        SourceConfig(table=f"s3://AKIAKEY:{secret}@bucket/one.parquet?endpoint_override=127.0.0.1:1&colour=red")
    )
    assert secret not in said and "AKIAKEY" not in said
