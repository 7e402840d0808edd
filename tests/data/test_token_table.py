"""Training order: the rows of every step by seed, row groups that are read ahead, damaged files."""

import gc
import json
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from emage.data.schema import TokenizerInfo, token_schema
from emage.data.token_table import NUM_READERS, RETRY_PAUSES_S, RowGroup, TokenTable
from emage.utils.errors import InputError

INFO = TokenizerInfo("made-up", "0" * 64, 512, (2, 2))


def write(folder: Path, rows: int = 50, per_file: int = 23, per_group: int = 10, info: TokenizerInfo = INFO) -> Path:
    """Write a table whose row i has uid i, caption "image i" and the tokens i, i, i, ..."""
    uid, n = np.arange(rows), info.num_tokens
    tokens = pa.FixedSizeListArray.from_arrays(pa.array(np.repeat(uid, n).astype(np.uint16)), n)
    numbers = {"uid": uid, "width": [1] * rows, "height": [1] * rows, "tokens": tokens}
    texts = dict.fromkeys(("dataset", "key", "url", "sha256"), [""] * rows)
    table = pa.table({**numbers, **texts, "caption": [f"image {i}" for i in uid]}, schema=token_schema(info, "test"))
    folder.mkdir(exist_ok=True)
    for i, start in enumerate(range(0, rows, per_file)):
        pq.write_table(table.slice(start, per_file), folder / f"{i:05d}.parquet", row_group_size=per_group)
    return folder


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the pauses before a row group is read again; the number of attempts stays."""
    monkeypatch.setattr("emage.data.token_table.RETRY_PAUSES_S", (0.0,) * len(RETRY_PAUSES_S))


def uids(table: TokenTable, steps: range, size: int, rank: int = 0, world_size: int = 1) -> list[int]:
    return [uid for step in steps for uid in table.batch(step, size, rank, world_size).uid]


def decoded() -> int:
    """Return the number of row groups in memory."""
    return sum(type(item) is RowGroup for item in gc.get_objects())


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# Training order


def test_an_epoch_shows_every_row_once_and_the_next_in_another_order(token_table: Path):
    table = TokenTable(str(token_table), seed=0)
    first, second = uids(table, range(25), 8), uids(table, range(25, 50), 8)
    assert sorted(first) == sorted(second) == list(range(200))
    assert first != second and first != sorted(first)


def test_a_steps_rows_depend_on_seed_and_step_alone(token_table: Path):
    whole = uids(TokenTable(str(token_table), seed=3), range(30), 8)
    fresh = TokenTable(str(token_table), seed=3, groups_in_memory=1)
    assert uids(fresh, range(29, 30), 8) == whole[-8:]  # as after a resume
    assert uids(TokenTable(str(token_table), seed=4), range(30), 8) != whole


def test_the_order_and_the_seeds_stay_what_they_were(tmp_path: Path):
    """The values are fixed: a run that resumes from a checkpoint of an earlier release must see the same rows."""
    table = TokenTable(str(write(tmp_path)), seed=7)
    assert table.batch(0, 6).uid == [8, 0, 7, 1, 3, 6]
    assert table.batch(1, 6).uid == [2, 4, 5, 9, 44, 43]  # the rest of a row group of 10, two of the next one's 3
    assert table.batch(8, 6).uid == [26, 32, 23, 26, 31, 28]  # the first epoch's last two, the second's first four
    assert table.batch(10_000, 6).uid == [28, 24, 29, 27, 23, 31]
    assert table.batch(0, 6).seeds[:2] == [8460147692890830636, 3317731564112288844]
    assert table.batch(8, 6).seeds[:2] == [271795351409202035, 1490227050904969113]
    assert table.batch(10**9, 6).seeds[:2] == [5638822729745995888, 5494642475063480314]  # indexes beyond 32 bits


@pytest.mark.parametrize(("size", "world_size"), [(8, 1), (8, 2), (8, 3), (7, 4), (120, 7), (3, 5)])
def test_ranks_divide_a_step_between_them(tmp_path: Path, size: int, world_size: int):
    """They do so as evenly as possible, in order: 8 rows become 2, 3 and 3; a rank may get none."""
    path = str(write(tmp_path))
    whole = TokenTable(path, seed=0)
    tables = [TokenTable(path, seed=0) for _ in range(world_size)]
    for step in (0, 5, 6, 7):
        one = whole.batch(step, size)
        parts = [table.batch(step, size, rank, world_size) for rank, table in enumerate(tables)]
        ends = [size * rank // world_size for rank in range(world_size + 1)]
        assert [len(part.uid) for part in parts] == np.diff(ends).tolist()
        assert one.uid == [value for part in parts for value in part.uid]
        assert one.captions == [value for part in parts for value in part.captions]
        assert one.seeds == [value for part in parts for value in part.seeds]
        assert torch.equal(one.y, torch.cat([part.y for part in parts]))


def test_captions_and_tokens_belong_to_their_rows(token_table: Path):
    rows = {row["uid"]: row for row in pq.read_table(token_table).to_pylist()}
    batch = TokenTable(str(token_table), seed=1).batch(0, 40)
    assert batch.y.dtype == torch.int64 and batch.y.shape == (40, 64)
    for uid, caption, y in zip(batch.uid, batch.captions, batch.y, strict=True):
        assert caption == rows[uid]["caption"] and y.tolist() == rows[uid]["tokens"]


def test_a_step_may_take_more_rows_than_the_table_has(tmp_path: Path):
    batch = TokenTable(str(write(tmp_path, rows=5)), seed=0).batch(0, 12)
    assert sorted(batch.uid[:5]) == sorted(batch.uid[5:10]) == [0, 1, 2, 3, 4]
    assert batch.captions == [f"image {uid}" for uid in batch.uid]
    assert len(set(batch.seeds)) == 12  # the same image gets other masks


def test_two_threads_may_read_at_once(tmp_path: Path):
    table = TokenTable(str(write(tmp_path, rows=400)), seed=0, groups_in_memory=1)
    expected = {step: table.batch(step, 4).uid for step in range(100)}
    wrong: list[int] = []

    def read(steps: range) -> None:
        wrong.extend(step for step in steps if table.batch(step, 4).uid != expected[step])

    threads = [threading.Thread(target=read, args=(steps,)) for steps in (range(100), range(99, -1, -1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# Reading ahead


def test_the_next_groups_are_read_while_one_is_used(tmp_path: Path):
    """After the file is deleted, the groups that were read ahead are still returned, also those of the next epoch."""
    before = decoded()
    table = TokenTable(str(write(tmp_path, per_file=50)), seed=0, groups_in_memory=3)  # five groups of 10 rows
    expected = uids(TokenTable(str(tmp_path), seed=0, groups_in_memory=1), range(6), 10)
    gc.collect()
    table.batch(3, 10)
    wait_for(lambda: decoded() - before >= 3)  # the groups of steps 4, 5 and 6
    (tmp_path / "00000.parquet").unlink()
    assert uids(table, range(4, 6), 10) == expected[40:]
    with pytest.raises(InputError, match=r"00000\.parquet: cannot be read .*; put the file back, or ingest again$"):
        uids(table, range(7, 8), 10)


def test_memory_holds_few_groups_however_many_there_are(tmp_path: Path):
    before = decoded()
    table = TokenTable(str(write(tmp_path, rows=400)), seed=0, groups_in_memory=3)
    most = 0
    for step in range(0, 100, 10):
        uids(table, range(step, step + 10), 10)
        most = max(most, decoded() - before)
    assert 1 <= most <= 3 + NUM_READERS  # a thread may still be at one that is no longer wanted
    table.close()


def test_a_step_can_be_read_again_after_an_error(tmp_path: Path):
    table = TokenTable(str(write(tmp_path, per_file=50)), seed=0, groups_in_memory=1)
    file, moved = tmp_path / "00000.parquet", tmp_path / "moved"
    file.rename(moved)
    with pytest.raises(InputError, match="cannot be read"):
        table.batch(0, 10)
    moved.rename(file)
    assert table.batch(0, 10).uid == TokenTable(str(tmp_path), seed=0).batch(0, 10).uid


def test_a_damaged_row_group_is_named(tmp_path: Path):
    table = TokenTable(str(write(tmp_path, per_file=50)), seed=0)
    file = tmp_path / "00000.parquet"
    content = file.read_bytes()
    footer = 8 + int.from_bytes(content[-8:-4], "little")
    file.write_bytes(content[:4] + b"\xff" * (len(content) - footer - 4) + content[-footer:])
    with pytest.raises(InputError, match=r"00000\.parquet: cannot be read") as error:
        table.batch(0, 10)
    assert "\n" not in str(error.value)


def test_a_collected_table_leaves_no_threads(tmp_path: Path):
    def readers() -> int:
        return sum(thread.name.startswith("token-table") for thread in threading.enumerate())

    gc.collect()
    wait_for(lambda: readers() == 0)  # of other tests' tables
    table = TokenTable(str(write(tmp_path)), seed=0)
    table.batch(0, 10)
    assert readers() > 0
    gone = weakref.ref(table)
    del table
    gc.collect()
    wait_for(lambda: gone() is None and readers() == 0)


@pytest.mark.parametrize("closing", ["", "raise SystemExit(3)"])
def test_a_process_ends_while_groups_are_read(tmp_path: Path, closing: str):
    source = f"""
from emage.data.token_table import TokenTable
table = TokenTable({str(write(tmp_path))!r}, seed=0)
table.batch(0, 10)
{closing}
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (3 if "3" in closing else 0, "")


# Folders that are not a token table


def test_folders_that_are_not_a_token_table_are_rejected(tmp_path: Path):
    with pytest.raises(InputError, match="no token table"):
        TokenTable(str(tmp_path), seed=0)
    with pytest.raises(InputError, match="no token table"):
        TokenTable(str(tmp_path / "none"), seed=0)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: not a token table"):
        TokenTable(str(tmp_path), seed=0)
    (tmp_path / "a.parquet").write_text(json.dumps({"a": 1}))
    with pytest.raises(InputError, match=r"a\.parquet: not a token table"):
        TokenTable(str(tmp_path), seed=0)
    with pytest.raises(InputError, match=r"a\.parquet: .*directory"):
        TokenTable(str(tmp_path / "a.parquet"), seed=0)


def test_every_file_is_checked_before_training(tmp_path: Path):
    write(tmp_path / "table")
    second = tmp_path / "table" / "00001.parquet"
    write(tmp_path / "other", info=TokenizerInfo("other", "1" * 64, 512, (2, 2)))
    second.write_bytes((tmp_path / "other" / "00001.parquet").read_bytes())
    with pytest.raises(InputError, match=r"00001\.parquet was made by .*other.*keep one table per folder"):
        TokenTable(str(tmp_path / "table"), seed=0)
    table = pq.read_table(tmp_path / "table" / "00000.parquet")
    pq.write_table(table.drop_columns(["caption"]), second)
    with pytest.raises(InputError, match=r"00001\.parquet: no column caption of string"):
        TokenTable(str(tmp_path / "table"), seed=0)
    second.write_bytes(b"PAR1, it says")
    with pytest.raises(InputError, match=r"00001\.parquet: not a token table"):
        TokenTable(str(tmp_path / "table"), seed=0)


def test_a_table_without_rows(tmp_path: Path):
    write(tmp_path, rows=1)
    file = tmp_path / "00000.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with pytest.raises(InputError, match="the token table has no rows"):
        TokenTable(str(tmp_path), seed=0)
