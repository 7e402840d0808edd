"""The benchmark of the loader: its command line, the table that it makes, and the script as a user starts it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emage.data.token_table import TokenTable

SCRIPT = "loader.py"


def test_the_table_is_a_token_table_with_the_captions_in_turn(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "FILE_ROWS", 4)
    settings = benchmark.LoaderBenchmark(rows=10, tokens=9, batch_size=2)
    benchmark.write_table(tmp_path, settings, ["a", "b", "c"])
    assert len(list(tmp_path.iterdir())) == 3
    batch = TokenTable(str(tmp_path), seed=0).batch(0, 10)
    assert batch.captions == ["abc"[uid % 3] for uid in batch.uid] and sorted(batch.uid) == list(range(10))
    assert batch.y.shape == (10, 9) and batch.y.min() >= 0 and batch.y.max() < benchmark.VOCABULARY


def test_captions_come_from_a_file_a_folder_or_nowhere(benchmark, tmp_path, monkeypatch):
    monkeypatch.delenv("EMAGE_DATA", raising=False)
    source, captions = benchmark.read_captions(benchmark.LoaderBenchmark(rows=5, batch_size=1))
    assert source == "toy world" and len(captions) == 5 and all(captions)
    pq.write_table(pa.table({"TEXT": ["one", None, "three"]}), tmp_path / "laion_urls_10k.parquet")
    monkeypatch.setenv("EMAGE_DATA", str(tmp_path))
    assert benchmark.read_captions(benchmark.LoaderBenchmark(rows=2)) == ("laion_urls_10k.parquet", ["one", ""])
    pq.write_table(pa.table({"words": ["four"]}), tmp_path / "mine.parquet")
    mine = benchmark.LoaderBenchmark(captions=str(tmp_path / "mine.parquet"), column="words")
    assert benchmark.read_captions(mine) == ("mine.parquet", ["four"])


def test_every_row_of_every_epoch_is_read(benchmark, tmp_path, monkeypatch):
    asked: list[tuple[int, int]] = []

    class Noting(TokenTable):
        def batch(self, step, batch_size):
            asked.append((step, batch_size))
            return super().batch(step, batch_size)

    monkeypatch.setattr(benchmark, "TokenTable", Noting)
    settings = benchmark.LoaderBenchmark(rows=12, tokens=4, batch_size=4, epochs=2)
    benchmark.write_table(tmp_path, settings, ["a red bus"])
    found = benchmark.measure(settings, str(tmp_path), ["a red bus"])
    assert asked == [(step, 4) for step in range(9)]  # two epochs, and one without tokenizing
    assert len(found["epochs"]) == 2 and min(found["parts_us"]["seeds"], found["epochs"][0]["per_second"]) > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["row=3"], "unknown key 'row'; did you mean rows?"),
        (["rows=0"], "rows=0: must be a whole number of at least 1"),
        (["tokens=10"], "tokens=10: must be a square number"),
        (["rows=10", "batch_size=11"], "rows=10: fewer than batch_size=11"),
        (["captions=none.parquet"], "captions=none.parquet: no captions in column 'TEXT'"),
        (["65536"], "'65536'"),
    ],
)
def test_bad_input_is_one_line(benchmark, arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1


@pytest.mark.chaos
def test_the_script_itself(script: Path, tmp_path: Path):
    """As a user starts it, on few rows; a copy, which writes its results next to itself."""
    copy = tmp_path / "benchmarks" / script.name
    copy.parent.mkdir()
    shutil.copy(script, copy)
    command = [sys.executable, str(copy), "rows=200", "tokens=16", "batch_size=10", "epochs=2"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "epoch 2, tokenized" in done.stdout and "microseconds a sample: decoding: " in done.stdout
    found = json.loads((copy.parent / "results" / "loader.json").read_text())
    assert found["rows"] == 200 and len(found["epochs"]) == 2 and found["commit"]
    assert {"python", "torch", "pyarrow", "open_clip", "emage"} <= found["versions"].keys()
