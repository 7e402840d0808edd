"""Contact sheets of token tables: the demo's images, back from their tokens."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image
from token_files import write_token_file

from emage.data import schema, shapes_checker
from emage.data.contact_sheet import make_contact_sheet
from emage.utils.errors import InputError


def test_the_sheet_shows_the_images_of_the_tokens(token_table: Path, tmp_path: Path):
    row = pq.read_table(token_table).slice(17, 1)
    pq.write_table(row, tmp_path / "0.parquet")
    sheet = make_contact_sheet(str(tmp_path))
    image = sheet.crop((8, 8, 8 + 128, 8 + 128)).resize((64, 64), Image.Resampling.NEAREST)
    assert shapes_checker.check(image, row["caption"][0].as_py()).all_correct
    assert sheet.width == 128 + 16 and sheet.height > 128 + 16
    assert make_contact_sheet(str(token_table), num_images=9).width == 8 * (128 + 16)


def test_a_sheet_needs_the_weights_that_made_the_table(token_table: Path, tmp_path: Path, run_command):
    _, info = schema.open_token_table(str(token_table))
    row = pq.read_table(token_table).slice(0, 1).to_pylist()
    other = schema.TokenizerInfo(info.name, "f" * 64, info.vocab_size, info.grid)
    write_token_file(tmp_path / "0.parquet", row, other)
    with pytest.raises(InputError, match=r"made by weights of sha256 f{64}.*pass weights=FILE"):
        make_contact_sheet(str(tmp_path))
    write_token_file(tmp_path / "0.parquet", [{"uid": 1, "caption": "a dog"}])
    done = run_command("inspect", str(tmp_path), f"sheet={tmp_path / 'sheet.png'}")
    assert done.returncode == 2
    assert "a dog" in done.stdout and "hand-made" in done.stdout  # everything but the sheet
    assert (
        done.stderr.startswith("error: the contact sheet needs the weights of hand-made")
        and done.stderr.count("\n") == 1
    )
    assert "pass weights=FILE" in done.stderr
    assert not (tmp_path / "sheet.png").exists()
