"""Sorted runs: any range of hashes comes back from several runs, in order."""

import numpy as np
import pyarrow as pa

from emage.on_ray.ingest import sorted_runs


def test_any_range_is_read_back(tmp_path):
    rng = np.random.default_rng(0)
    numbers = rng.integers(0, 1 << 60, 1_000)
    hashes = sorted_runs.mix(numbers)
    hashes[:20] = hashes[0]  # equal hashes: by the other column
    for n in range(3):
        part = slice(n * 400, (n + 1) * 400)
        rows = pa.table({"n": numbers[part], "t": -numbers[part]})
        sorted_runs.write(tmp_path / f"r{n}", *sorted_runs.sort(rows, hashes[part], "t"))
    paths = [tmp_path / f"r{n}" for n in range(3)]
    assert all(map(sorted_runs.exists, paths)) and sum(map(sorted_runs.num_rows, paths)) == 1_000
    pieces = [sorted_runs.read_ranges(paths, n, n + 1, 7, "t") for n in range(7)]
    before = sum(sorted_runs.rows_before_ranges(path, 7) for path in paths)
    assert [len(table) for table, _ in pieces] == np.diff(before).tolist()
    found = np.concatenate([table["n"].to_numpy() for table, _ in pieces])
    assert found.tolist() == numbers[np.lexsort((-numbers, hashes))].tolist()
    assert len(list(tmp_path.iterdir())) == 6  # without temporary files
