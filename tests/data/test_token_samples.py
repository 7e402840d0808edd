"""Samples of token tables: random, by seed; files of other tables are rejected."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from token_files import INFO, write_token_file

from emage.data import schema
from emage.data.token_samples import read_footer, sample_rows
from emage.data.token_statistics import compute_statistics
from emage.utils.errors import InputError


def test_a_sample_is_random_rows_that_the_seed_decides(tmp_path: Path):
    for i in range(4):
        rows = [{"uid": 100 * i + j, "caption": str(100 * i + j), "dataset": f"set{i}"} for j in range(100)]
        write_token_file(tmp_path / f"{i}.parquet", rows, row_group_size=25)
    files = [read_footer(str(file), INFO) for file in sorted(tmp_path.iterdir())]

    def uids(rows: int, seed: int, per_group: int | None = None) -> list[int]:
        tables = sample_rows(files, rows, seed, max_per_group=per_group)
        return [uid for table in tables for uid in table["uid"].to_pylist()]

    assert len(uids(60, 0)) == len(set(uids(60, 0))) == 60
    assert uids(60, 0) == uids(60, 0) != uids(60, 1)
    assert sorted(uids(1000, 0)) == list(range(400))
    groups = {uid // 25 for uid in uids(16, 0, per_group=2)}
    assert len(groups) == 8
    statistics = compute_statistics(str(tmp_path), sample=10)
    assert statistics["sample"]["rows"] == 10 and statistics["datasets"] == {f"set{i}": 100 for i in range(4)}


def test_files_that_do_not_belong_together_are_rejected(tmp_path: Path):
    rows = [{"uid": i, "caption": "a dog"} for i in range(50)]
    write_token_file(tmp_path / "0.parquet", rows)
    second = tmp_path / "1.parquet"
    write_token_file(second, rows, schema.TokenizerInfo("other", "0" * 64, 4, (1, 2)))
    with pytest.raises(InputError, match=r"1\.parquet was made by .*other.*keep one table per folder"):
        compute_statistics(str(tmp_path))
    pq.write_table(pq.read_table(tmp_path / "0.parquet").drop_columns(["url"]), second)
    with pytest.raises(InputError, match="its columns are not those of a token table"):
        compute_statistics(str(tmp_path))
    second.write_bytes((tmp_path / "0.parquet").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"1\.parquet: cannot be read .*ingest again"):
        compute_statistics(str(tmp_path))
    write_token_file(second, [{"uid": 1, "caption": "", "tokens": [0, 4]}])
    with pytest.raises(InputError, match="the table has token 4, the vocabulary 4 codes"):
        compute_statistics(str(tmp_path))
