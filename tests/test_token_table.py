import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from emage.errors import InputError
from emage.token_table import TokenTable


def uids(table: TokenTable, steps: range, size: int, rank: int = 0, world_size: int = 1) -> list[int]:
    return [uid for step in steps for uid in table.batch(step, size, rank, world_size).uid]


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


def test_ranks_share_a_step_between_them(token_table: Path):
    table = TokenTable(str(token_table), seed=0)
    one = table.batch(5, 8)
    two = [table.batch(5, 8, rank, 2) for rank in range(2)]
    assert one.uid == two[0].uid + two[1].uid
    assert one.seeds == two[0].seeds + two[1].seeds
    assert torch.equal(one.y, torch.cat([part.y for part in two]))


def test_captions_and_tokens_belong_to_their_rows(token_table: Path):
    rows = {row["uid"]: row for row in pq.read_table(token_table).to_pylist()}
    batch = TokenTable(str(token_table), seed=1).batch(0, 40)
    for uid, caption, y in zip(batch.uid, batch.captions, batch.y, strict=True):
        assert caption == rows[uid]["caption"] and y.tolist() == rows[uid]["tokens"]


def test_what_is_no_token_table_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no token table"):
        TokenTable(str(tmp_path), seed=0)
    pq.write_table(pa.table({"a": [1]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="not a token table"):
        TokenTable(str(tmp_path), seed=0)
    (tmp_path / "a.parquet").write_text(json.dumps({"a": 1}))
    with pytest.raises(InputError, match="not a token table"):
        TokenTable(str(tmp_path), seed=0)
