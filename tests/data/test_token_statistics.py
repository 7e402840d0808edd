"""Statistics of hand-made token tables, worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from token_files import write_token_file

from emage.data.token_statistics import code_statistics, compute_statistics


def test_a_table_worked_out_by_hand(tmp_path: Path):
    folder = tmp_path / "tokens"
    write_token_file(
        folder / "0.parquet",
        [
            {"uid": 1, "caption": "a", "tokens": [0, 0], "width": 10},
            {"uid": 2, "caption": "a dog", "tokens": [0, 3], "width": 20},
            {"uid": 3, "caption": "a dog", "tokens": [3, 0], "width": 30},
        ],
        row_group_size=2,
    )
    write_token_file(folder / "1.parquet", [{"uid": 3, "caption": "dog " * 99, "tokens": [0, 0], "dataset": "cc3m"}])
    statistics = compute_statistics(str(folder))
    assert (statistics["rows"], statistics["files"], statistics["row_groups"]) == (4, 2, 3)
    assert statistics["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert (statistics["rows_per_file"]["min"], statistics["rows_per_file"]["max"]) == (1, 3)
    assert (statistics["rows_per_row_group"]["min"], statistics["rows_per_row_group"]["max"]) == (1, 2)
    assert statistics["datasets"] == {"web": 3, "cc3m": 1}
    assert (statistics["tokenizer"]["name"], statistics["tokenizer"]["grid"]) == ("hand-made", (1, 2))
    assert statistics["version"] == "1.2"
    sample = statistics["sample"]
    assert (sample["rows"], sample["same_uid"], sample["same_caption"]) == (4, 1, 1)
    captions = sample["captions"]
    assert captions["characters"] | {"p90": 0, "p99": 0} == {"min": 1, "median": 5, "p90": 0, "p99": 0, "max": 396}
    assert (captions["words"]["median"], captions["words"]["max"]) == (2, 99)
    assert (captions["clip_tokens"]["min"], captions["clip_tokens"]["max"]) == (3, 101)  # start, "a", end
    assert captions["truncated_fraction"] == 1 / 4
    assert (sample["width"]["min"], sample["width"]["median"], sample["width"]["max"]) == (10, 25, 64)
    assert sample["codes"]["live"] == 2 and sample["codes"]["commonest_fraction"] == 6 / 8
    assert sample["codes"]["entropy_bits"] == pytest.approx(0.75 * np.log2(4 / 3) + 0.25 * 2)


def test_codes_that_are_all_alike_or_all_different():
    assert code_statistics(np.array([0, 7, 0])) == {"live": 1, "entropy_bits": 0.0, "commonest_fraction": 1.0}
    assert code_statistics(np.full(8, 5)) == {"live": 8, "entropy_bits": 3.0, "commonest_fraction": 1 / 8}
