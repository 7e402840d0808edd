"""The endpoint as a user starts it, under hostile connections: the load of the benchmark, smaller."""

from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = "serve_hostile.py"


@pytest.mark.faults
def test_honest_clients_among_hostile_ones_get_their_images(benchmark: ModuleType, tmp_path: Path) -> None:
    settings = benchmark.HostileBenchmark(
        ("load",), hostile=400, honest=8, seconds=12.0, steps=4, results=str(tmp_path / "r.json")
    )
    found = benchmark.load(settings)
    assert set(found["outcomes"]) == set(found["outcomes_afterwards"]) == {"200"}, found
    assert found["outcomes"]["200"] >= 8
    connections = found["hostile_connections"]
    for kind in ("silent", "trickling", "endless_header", "huge_json"):
        assert connections[f"{kind} made"] >= 100 and connections.get(f"{kind} ended", 0) > 0, (kind, connections)
    assert found["slowest_ratio"] < 4, found  # two on an idle machine: the benchmark states it
    assert found["mb_growth"] < 50, found
