"""Bad input on a pipeline's command line: one line on stderr, exit code 2, nothing written."""

import shutil
from pathlib import Path

import pytest
from PIL import Image


@pytest.mark.parametrize(
    ("program", "line", "message"),
    [
        ("ingest", "tinny source.table=u.csv output=out", "unknown preset 'tinny'; did you mean tiny?"),
        ("ingest", "tiny source.tabel=u.csv output=out", "unknown key 'source.tabel'; did you mean source.table?"),
        ("ingest", "tiny source.table=none.csv output=out", "none.csv"),
        ("ingest", "tiny source.table=u.csv output=out", "link, text"),  # names the columns that there are
        ("ingest", "tiny source.table=empty.csv source.url=link source.caption=[text] output=out", "empty.csv"),
        ("ingest", "tiny source.table=broken.parquet output=out", "broken.parquet"),
        ("ingest", "tiny source.table=u.csv source.url=link source.caption=[text] output=taken", "taken"),
        (
            "ingest",
            "tiny source.table=u.csv source.url=link source.caption=[text] output=u.csv/out",
            "cannot be written",
        ),
        (
            "ingest",
            "tiny source.table=u.csv source.url=link source.caption=[text] source.where=[a] output=out",
            "'a' is no",
        ),
        (
            "ingest",
            "tiny source.table=u.csv source.url=link source.caption=[text] more.b.tabel=c output=out",
            "more.b.table=",
        ),
        (
            "ingest",
            "tiny source.table=u.csv source.url=link source.caption=[text] select.block_urls=[no.txt] output=out",
            "no.txt: not a readable list (select.block_urls)",
        ),
        ("train", "tiny data.path=nothing run.output=out", "nothing: no token table"),
        ("train", "tiny data.path=TABLE run.output=taken", "taken already exists and is not an output of train"),
        ("train", "tiny data.path=TABLE data.tokenizer=vqgan-f9 run.output=out", "vqgan-f9"),
        ("evaluate", "tiny checkpoint=taken captions=c.txt output=out", "is not a checkpoint folder"),
        ("evaluate", "tiny checkpoint=MODEL captions=none.txt output=out", "no such caption file"),
        ("evaluate", "tiny checkpoint=MODEL captions=c.txt output=out metrics=[shape]", "did you mean shapes?"),
        ("evaluate", "tiny checkpoint=MODEL captions=c.txt output=out sampling.stepz=3", "did you mean steps?"),
        ("evaluate", "tiny checkpoint=MODEL captions=c.txt output=out metrics=[fid]", "judge.reference=FOLDER"),
        (
            "evaluate",
            "tiny checkpoint=MODEL captions=c.txt output=out metrics=[frechet] judge.reference=none",
            "none: no such folder or .tar",
        ),
        (
            "evaluate",
            "tiny checkpoint=MODEL captions=c.txt output=out metrics=[frechet] judge.reference=real",
            "frechet: two generated images or more are needed, not 1",
        ),
        (
            "evaluate",
            "tiny checkpoint=MODEL captions=two.txt output=out metrics=[frechet,kid] judge.reference=real",
            "frechet, kid: two reference images or more are needed, not 1",
        ),
        (
            "evaluate",
            "tiny checkpoint=MODEL captions=c.txt output=out seed=-1",
            "seed=-1: must be a whole number from 0 to 2^63 - 1",
        ),
        ("serve", "tiny checkpoint=taken", "is not a checkpoint folder"),
        ("serve", "tiny checkpoint=nothing", "checkpoint=nothing: no such folder"),
    ],
)
def test_one_line_exit_2_nothing_written(
    program: str,
    line: str,
    message: str,
    token_table: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_command,
):
    monkeypatch.chdir(tmp_path)
    Path("u.csv").write_text("link,text\nhttp://a/b.jpg,a cat\n")
    Path("empty.csv").write_text("link,text\n")
    Path("broken.parquet").write_bytes(b"PAR1 is how it begins")
    Path("c.txt").write_text("a cat\n")
    Path("two.txt").write_text("a cat\na dog\n")
    Path("real").mkdir()
    Image.new("RGB", (64, 64)).save("real/1.png")
    Path("taken").mkdir()
    Path("taken/file").write_text("another program's work")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    arguments = line.replace("TABLE", str(token_table)).replace("MODEL", str(tiny_model)).split()
    done = run_command(program, *arguments)
    error = done.stderr.strip().splitlines()
    assert done.returncode == 2
    assert len(error) == 1 and error[0].startswith("error: ") and message in error[0], error
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    shutil.rmtree("taken")
