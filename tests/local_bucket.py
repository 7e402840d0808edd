"""A bucket of an S3 server on 127.0.0.1, with objects from a dict."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pyarrow.fs
import pytest
from moto.server import ThreadedMotoServer


@contextmanager
def serving(bucket: str, objects: Mapping[str, bytes]) -> Iterator[str]:
    """Yield host:port of the server while the block runs."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        filesystem = pyarrow.fs.S3FileSystem(
            access_key="key",
            secret_key="secret",
            region="us-east-1",
            scheme="http",
            endpoint_override=f"{host}:{port}",
            allow_bucket_creation=True,
        )
        filesystem.create_dir(bucket)
        for key, content in objects.items():
            with filesystem.open_output_stream(f"{bucket}/{key}", compression=None) as stream:
                stream.write(content)
        yield f"{host}:{port}"
    finally:
        server.stop()


def set_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set invalid credentials, and do not query the metadata address of a cloud machine."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
