"""Files of finished shards that are damaged before the next stage reads them: one line that names the file."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pairs import NUM_WRITTEN, Ingested

from emage.config import IngestConfig
from emage.data.token_table import TokenTable
from emage.on_ray.ingest import driver as ingest
from emage.utils import manifest
from emage.utils.errors import InputError

pytestmark = pytest.mark.ray


def flip(file: Path, place: int | None = None) -> None:
    """Change one bit of a byte, by default of the middle one."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2 if place is None else place] ^= 8
    file.write_bytes(content)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1_000)


def copy_without(ingested: Ingested, output: Path, *names: str) -> IngestConfig:
    """Copy a finished ingest without some of its folders, and return the settings to continue it."""
    shutil.copytree(ingested.output, output)
    for name in names:
        shutil.rmtree(output / name)
    (output / "ingest_report.json").unlink()
    return replace(ingested.settings, output=str(output))


@pytest.mark.parametrize("damage", [flip, cut, os.unlink])
def test_a_damaged_image_shard_is_named_and_made_again_once_it_is_deleted(
    ingested: Ingested, tmp_path: Path, damage: Callable[[Path], None], capfd: pytest.CaptureFixture[str]
):
    settings = copy_without(ingested, tmp_path / "out", "tokenized", "tokens")
    shard = tmp_path / "out" / "shards" / "00001"
    damage(shard / "pictures.parquet")
    with pytest.raises(InputError, match=rf"^{shard}/pictures.parquet is damaged: [^\n]*delete the folder {shard} and"):
        ingest.ingest(settings)
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed and "ERROR" not in printed
    assert not (tmp_path / "out" / "tokenized" / "00001").exists()
    if damage is flip:
        shutil.rmtree(shard)
        report = ingest.ingest(settings)
        assert report["written"] == NUM_WRITTEN
        assert Ingested(settings, [], report).bytes() == ingested.bytes()


@pytest.mark.parametrize("damage", [flip, cut, os.unlink])
def test_a_damaged_tokenized_shard_is_named(ingested: Ingested, tmp_path: Path, damage: Callable[[Path], None]):
    settings = copy_without(ingested, tmp_path / "out", "tokens")
    shard = tmp_path / "out" / "tokenized" / "00001"
    damage(shard / "tokens.parquet")
    with pytest.raises(InputError, match=rf"^{shard}/tokens.parquet is damaged: [^\n]*delete the folder {shard} and"):
        ingest.ingest(settings)
    assert not (tmp_path / "out" / "tokens").exists()


def test_a_damaged_token_table_is_named(ingested: Ingested, tmp_path: Path):
    settings = copy_without(ingested, tmp_path / "out")
    file = min((tmp_path / "out" / "tokens").glob("*.parquet"))
    content = file.read_bytes()
    cut(file)
    with pytest.raises(InputError, match=rf"^{file}[^\n]*"):
        ingest.ingest(settings)
    file.write_bytes(content)
    group = pq.read_metadata(file).row_group(0)
    (tokens,) = (i for i in range(group.num_columns) if group.column(i).path_in_schema.startswith("tokens"))
    flip(file, group.column(tokens).data_page_offset + group.column(tokens).total_compressed_size // 2)
    table = TokenTable(str(file.parent), seed=0)
    with pytest.raises(InputError, match=rf"^{file}: cannot be read [^\n]*CRC"):
        table.batch(0, NUM_WRITTEN)
    file.unlink()
    assert Ingested(settings, [], ingest.ingest(settings)).bytes() == ingested.bytes()  # made again


@pytest.mark.parametrize("name", ["shards/00001", "tokenized/00001"])
def test_an_empty_manifest_is_named_and_the_shard_made_again_once_it_is_deleted(
    ingested: Ingested, tmp_path: Path, name: str
):
    settings = copy_without(ingested, tmp_path / "out", "tokens")
    file = tmp_path / "out" / name / manifest.NAME
    os.truncate(file, 0)
    with pytest.raises(InputError, match=rf"^{file} is damaged \(it is empty\); delete this file and run the same"):
        ingest.ingest(settings)
    file.unlink()
    assert Ingested(settings, [], ingest.ingest(settings)).bytes() == ingested.bytes()


@pytest.mark.parametrize("name", ["urls/_manifest.json", "shards/manifest.json", "tokens/_manifest.json", "run.json"])
def test_an_empty_manifest_of_a_stage_is_named(ingested: Ingested, tmp_path: Path, name: str):
    settings = copy_without(ingested, tmp_path / "out")
    os.truncate(tmp_path / "out" / name, 0)
    with pytest.raises(InputError, match=rf"^{tmp_path / 'out' / name} is damaged[^\n]*; (delete this file|choose)"):
        ingest.ingest(settings)
