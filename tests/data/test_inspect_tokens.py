"""Inspection: figures of hand-made tables, worked out by hand, and the demo's images, back from their tokens."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from emage.data import inspect_tokens, schema, shapes_checker
from emage.utils.errors import InputError

INFO = schema.TokenizerInfo("hand-made", "0" * 64, vocab_size=4, grid=(1, 2))


def write(file: Path, rows: list[dict], info: schema.TokenizerInfo = INFO, row_group_size: int = 100) -> None:
    """A file of a token table; what a row does not say is the same for all."""
    file.parent.mkdir(exist_ok=True)
    common = {"dataset": "web", "key": "0", "url": "", "tokens": [0, 0], "width": 64, "height": 48, "sha256": ""}
    table = pa.Table.from_pylist([{**common, **row} for row in rows], schema.token_table(info, "1.2"))
    pq.write_table(table, file, row_group_size=row_group_size)


def test_figures_of_a_table_worked_out_by_hand(tmp_path: Path):
    folder = tmp_path / "tokens"
    write(
        folder / "0.parquet",
        [
            {"uid": 1, "caption": "a", "tokens": [0, 0], "width": 10},
            {"uid": 2, "caption": "a dog", "tokens": [0, 3], "width": 20},
            {"uid": 3, "caption": "a dog", "tokens": [3, 0], "width": 30},
        ],
        row_group_size=2,
    )
    write(folder / "1.parquet", [{"uid": 3, "caption": "dog " * 99, "tokens": [0, 0], "dataset": "cc3m"}])
    figures = inspect_tokens.inspect(str(folder))
    assert (figures["rows"], figures["files"], figures["row_groups"]) == (4, 2, 3)
    assert figures["bytes"] == sum(file.stat().st_size for file in folder.iterdir())
    assert (figures["rows_per_file"]["least"], figures["rows_per_file"]["most"]) == (1, 3)
    assert (figures["rows_per_row_group"]["least"], figures["rows_per_row_group"]["most"]) == (1, 2)
    assert figures["datasets"] == {"web": 3, "cc3m": 1}
    assert (figures["tokenizer"]["name"], figures["tokenizer"]["grid"]) == ("hand-made", (1, 2))
    assert figures["version"] == "1.2"
    sample = figures["sample"]
    assert (sample["rows"], sample["same_uid"], sample["same_caption"]) == (4, 1, 1)
    captions = sample["captions"]
    assert captions["characters"] | {"p90": 0, "p99": 0} == {"least": 1, "median": 5, "p90": 0, "p99": 0, "most": 396}
    assert (captions["words"]["median"], captions["words"]["most"]) == (2, 99)
    assert (captions["clip_tokens"]["least"], captions["clip_tokens"]["most"]) == (3, 101)  # start, "a", end
    assert captions["share_cut"] == 1 / 4
    assert (sample["width"]["least"], sample["width"]["median"], sample["width"]["most"]) == (10, 25, 64)
    assert sample["codes"]["live"] == 2 and sample["codes"]["commonest_share"] == 6 / 8
    assert sample["codes"]["entropy_bits"] == pytest.approx(0.75 * np.log2(4 / 3) + 0.25 * 2)


def test_codes_that_are_all_alike_or_all_different():
    assert inspect_tokens.of_codes(np.array([0, 7, 0])) == {"live": 1, "entropy_bits": 0.0, "commonest_share": 1.0}
    assert inspect_tokens.of_codes(np.full(8, 5)) == {"live": 8, "entropy_bits": 3.0, "commonest_share": 1 / 8}


def test_a_sample_is_random_rows_drawn_by_seed(tmp_path: Path):
    for i in range(4):
        rows = [{"uid": 100 * i + j, "caption": str(100 * i + j), "dataset": f"set{i}"} for j in range(100)]
        write(tmp_path / f"{i}.parquet", rows, row_group_size=25)
    files = [inspect_tokens._footer(str(file), INFO) for file in sorted(tmp_path.iterdir())]

    def uids(rows: int, seed: int, at_most: int | None = None) -> list[int]:
        return [uid for table in inspect_tokens._sample(files, rows, seed, at_most) for uid in table["uid"].to_pylist()]

    assert len(uids(60, 0)) == len(set(uids(60, 0))) == 60
    assert uids(60, 0) == uids(60, 0) != uids(60, 1)
    assert sorted(uids(1000, 0)) == list(range(400))
    groups = {uid // 25 for uid in uids(16, 0, at_most=2)}
    assert len(groups) == 8
    figures = inspect_tokens.inspect(str(tmp_path), sample=10)
    assert figures["sample"]["rows"] == 10 and figures["datasets"] == {f"set{i}": 100 for i in range(4)}


def test_the_demo_table(token_table: Path, capsys):
    figures = inspect_tokens.inspect(str(token_table))
    assert (figures["rows"], figures["files"], figures["row_groups"]) == (200, 2, 8)
    assert figures["datasets"] == {"shapes": 200}
    inspect_tokens.show(figures)
    printed = capsys.readouterr().out
    for text in ("2 of 100 rows", "8 of 10 to 30 (median 30) rows", "vqgan-demo-f8-512", "grid 8x8", "of every row"):
        assert text in printed
    inspect_tokens.show(inspect_tokens.inspect(str(token_table), sample=7))
    assert "a sample of 7 rows" in capsys.readouterr().out


def test_a_hostile_caption_is_printed_as_it_is(tmp_path: Path, capsys):
    write(tmp_path / "0.parquet", [{"uid": 1, "caption": "\x1b[31mred [bold]x[/bold]", "dataset": "[link]"}])
    inspect_tokens.show(inspect_tokens.inspect(str(tmp_path)))
    printed = capsys.readouterr().out
    assert r"\u001b[31mred [bold]x[/bold]" in printed and "[link]" in printed
    assert "\x1b[31m" not in printed


def test_the_sheet_shows_the_images_of_the_tokens(token_table: Path, tmp_path: Path):
    row = pq.read_table(token_table).slice(17, 1)
    pq.write_table(row, tmp_path / "0.parquet")
    sheet = inspect_tokens.contact_sheet(str(tmp_path))
    image = sheet.crop((8, 8, 8 + 128, 8 + 128)).resize((64, 64), Image.Resampling.NEAREST)
    assert shapes_checker.check(image, row["caption"][0].as_py()).all_correct
    assert sheet.width == 128 + 16 and sheet.height > 128 + 16
    assert inspect_tokens.contact_sheet(str(token_table), num_images=9).width == 8 * (128 + 16)


def test_a_sheet_needs_the_weights_that_made_the_table(token_table: Path, tmp_path: Path, run_command):
    _, info = schema.open_token_table(str(token_table))
    row = pq.read_table(token_table).slice(0, 1).to_pylist()
    other = schema.TokenizerInfo(info.name, "f" * 64, info.vocab_size, info.grid)
    write(tmp_path / "0.parquet", row, other)
    with pytest.raises(InputError, match=r"made by weights of sha256 f{64}.*pass weights=FILE"):
        inspect_tokens.contact_sheet(str(tmp_path))
    write(tmp_path / "0.parquet", [{"uid": 1, "caption": "a dog"}])
    done = run_command("inspect", str(tmp_path), f"sheet={tmp_path / 'sheet.png'}")
    assert done.returncode == 2
    assert "a dog" in done.stdout and "hand-made" in done.stdout  # everything but the sheet
    assert done.stderr.startswith("error: no sheet without the weights of hand-made") and done.stderr.count("\n") == 1
    assert "pass weights=FILE" in done.stderr
    assert not (tmp_path / "sheet.png").exists()


def test_the_command_writes_the_sheet(token_table: Path, tmp_path: Path, run_command):
    done = run_command("inspect", str(token_table), f"sheet={tmp_path / 'sheet.png'}", "pictures=4", "sample=50")
    assert done.returncode == 0, done.stderr
    assert "a sample of 50 rows" in done.stdout
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 4 * (128 + 16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "error: nowhere: no token table (*.parquet) here; pipelines/ingest.py writes one"),
        ([], "error: path is required: add path=... (--help lists every key)"),
        (["nowhere", "sheet=a.txt"], "error: sheet=a.txt: end it in .png, .jpg or .webp"),
        (["nowhere", "sample=0"], "error: sample=0: at least one row is needed"),
        (["nowhere", "sampel=9"], "error: unknown key 'sampel'; did you mean sample? (--help lists every key)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as stopped:
        inspect_tokens.main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == message + "\n"


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path):
    rows = [{"uid": i, "caption": "a dog"} for i in range(50)]
    write(tmp_path / "0.parquet", rows)
    second = tmp_path / "1.parquet"
    write(second, rows, schema.TokenizerInfo("other", "0" * 64, 4, (1, 2)))
    with pytest.raises(InputError, match=r"1\.parquet is of .*other.*keep one table to a folder"):
        inspect_tokens.inspect(str(tmp_path))
    pq.write_table(pq.read_table(tmp_path / "0.parquet").drop_columns(["url"]), second)
    with pytest.raises(InputError, match="not the columns of a token table"):
        inspect_tokens.inspect(str(tmp_path))
    second.write_bytes((tmp_path / "0.parquet").read_bytes()[:-9])
    with pytest.raises(InputError, match=r"1\.parquet: cannot be read .*ingest again"):
        inspect_tokens.inspect(str(tmp_path))
    write(second, [{"uid": 1, "caption": "", "tokens": [0, 4]}])
    with pytest.raises(InputError, match="the table has token 4, the vocabulary 4 codes"):
        inspect_tokens.inspect(str(tmp_path))


def test_it_starts_without_torch():
    code = "import sys, emage.data.inspect_tokens; assert not {'torch', 'open_clip', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
