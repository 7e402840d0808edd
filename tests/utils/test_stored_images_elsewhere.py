"""Images in object storage and on a hub: real servers on 127.0.0.1, read through the addresses that a user gives."""

import io
import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import local_bucket
import local_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stored_images import encoded, read_all

from emage.config import SourceConfig
from emage.data.ingest.sources import kinds
from emage.utils.errors import InputError

ROOT = Path(__file__).parents[2]


def tar(number: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in ((f"{number}.png", encoded(number)), (f"{number}.txt", b"number %d" % number)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def parquet() -> bytes:
    file = io.BytesIO()
    images = [{"bytes": encoded(number), "path": f"{number}.png"} for number in range(3)]
    pq.write_table(pa.table({"image": images, "text": [f"number {number}" for number in range(3)]}), file)
    return file.getvalue()


OBJECTS = {
    "folder/0.png": encoded(0),
    "folder/0.txt": b"number 0",
    "folder/deep/1.png": encoded(1),
    "folder/deep/1.json": json.dumps({"caption": "number 1"}).encode(),
    "folder/metadata.csv": b"file_name,text\n2.png,number 2\n",
    "folder/2.png": encoded(2),
    **{f"shards/{number:03d}.tar": tar(number) for number in range(3)},
    "parquet/train.parquet": parquet(),
}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with local_bucket.serving("images", OBJECTS) as address:
        yield address


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    local_bucket.set_credentials(monkeypatch)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("folder", "folder"),
        ("shards", "tar"),
        ("shards/{000..002}.tar", "tar"),
        ("parquet", "image_parquet"),
        ("parquet/train.parquet", "image_parquet"),
    ],
)
def test_every_kind_in_object_storage(address, path, kind):
    source = SourceConfig(f"s3://images/{path}?endpoint_override={address}&scheme=http")
    assert kinds.resolve(source).format == kind
    rows, dropped = read_all(source)
    assert sorted(row["caption"] for row in rows) == ["number 0", "number 1", "number 2"] and dropped == {}
    read = kinds.open_images(kinds.resolve(source))
    for row in rows:
        assert read(row["address"], lambda _: None) == encoded(int(row["caption"][-1]))


def test_a_missing_archive_of_a_pattern(address):
    source = SourceConfig(f"s3://images/shards/{{000..004}}.tar?endpoint_override={address}&scheme=http")
    with pytest.raises(InputError, match=r"2 of 5 files are missing, images/shards/003\.tar for example"):
        kinds.resolve(source)


READ_A_DATA_SET = """
import sys
from stored_images import encoded, read_all
from emage.config import SourceConfig
from emage.data.ingest.sources import kinds
from emage.utils.errors import InputError

for kind in ("folder", "tar", "image_parquet"):
    source = kinds.resolve(SourceConfig(f"hf://datasets/user/{kind}"))
    assert source.format == kind
    rows, dropped = read_all(source)
    assert sorted(row["caption"] for row in rows) == ["number 0", "number 1", "number 2"] and dropped == {}
    read = kinds.open_images(source)
    for row in rows:
        assert read(row["address"], lambda _: None) == encoded(int(row["caption"][-1]))
try:
    kinds.resolve(SourceConfig("hf://datasets/user/gone"))
except InputError as error:
    print(error)
"""


def test_data_sets_of_the_hub():
    """Through huggingface_hub's own file system, which asks the mirror that HF_ENDPOINT names when it is imported."""
    with local_hub.serving() as hub:
        for kind, start in (("folder", "folder/"), ("tar", "shards/"), ("image_parquet", "parquet/")):
            files = {"README.md": b"# A data set", ".gitattributes": b""}
            files |= {f"data/{key.removeprefix(start)}": data for key, data in OBJECTS.items() if key.startswith(start)}
            hub.commit(f"user/{kind}", "main", files)
        environment = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests"))),
        }
        done = subprocess.run(
            [sys.executable, "-c", READ_A_DATA_SET], env=environment, capture_output=True, text=True, timeout=120
        )
    assert (done.returncode, done.stdout) == (0, "hf://datasets/user/gone: no such file or folder (source.table)\n"), (
        done.stderr
    )
