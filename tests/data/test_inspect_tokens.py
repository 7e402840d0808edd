"""The command `emage inspect`: its output, the contact sheet, bad input."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from token_files import write_token_file

from emage.data import inspect_tokens
from emage.data.token_statistics import compute_statistics


def test_the_demo_table(token_table: Path, capsys):
    statistics = compute_statistics(str(token_table))
    assert (statistics["rows"], statistics["files"], statistics["row_groups"]) == (200, 2, 8)
    assert statistics["datasets"] == {"shapes": 200}
    inspect_tokens.show(statistics)
    printed = capsys.readouterr().out
    for text in ("2 of 100 rows", "8 of 10 to 30 (median 30) rows", "vqgan-demo-f8-512", "grid 8x8", "of every row"):
        assert text in printed
    inspect_tokens.show(compute_statistics(str(token_table), sample=7))
    assert "a sample of 7 rows" in capsys.readouterr().out


def test_each_data_set_has_its_share(tmp_path: Path, capsys):
    names = ["laion400m", "cc3m", "laion400m", "laion400m"]
    rows = [{"uid": i, "caption": "a cat", "dataset": name} for i, name in enumerate(names)]
    write_token_file(tmp_path / "0.parquet", rows)
    inspect_tokens.show(compute_statistics(str(tmp_path)))
    printed = " ".join(capsys.readouterr().out.split())
    assert "laion400m │ 3 rows (75.0%)" in printed and "cc3m │ 1 rows (25.0%)" in printed


def test_a_hostile_caption_is_printed_as_it_is(tmp_path: Path, capsys):
    write_token_file(tmp_path / "0.parquet", [{"uid": 1, "caption": "\x1b[31mred [bold]x[/bold]", "dataset": "[link]"}])
    inspect_tokens.show(compute_statistics(str(tmp_path)))
    printed = capsys.readouterr().out
    assert r"\u001b[31mred [bold]x[/bold]" in printed and "[link]" in printed
    assert "\x1b[31m" not in printed


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
        (["nowhere", "sample=0"], "error: sample=0: must be a whole number of at least 1 (rows)"),
        (["nowhere", "sampel=9"], "error: unknown key 'sampel'; did you mean sample? (--help lists every key)"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments: list[str], message: str, capsys):
    with pytest.raises(SystemExit) as stopped:
        inspect_tokens.main(arguments)
    assert stopped.value.code == 2
    assert capsys.readouterr().err == message + "\n"


def test_the_command_starts_without_torch():
    code = "import sys, emage.data.inspect_tokens; assert not {'torch', 'open_clip', 'rich'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
