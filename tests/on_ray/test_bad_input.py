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
        ("train", "tiny data.path=TABLE run.output=out lr=1", "unknown key 'lr'; did you mean optim.lr?"),
        ("train", "tiny data.path=TABLE run.output=out moderation=low", "unknown key 'moderation' (--help"),
        ("train", "tiny data.path=TABLE run.output=out model.width=65 dry_run=true", "a multiple of model.num_heads=2"),
        ("train", "tiny data.path=TABLE run.output=out model.depth=0 dry_run=true", "model.depth=0: must be"),
        ("train", f"tiny data.path=TABLE run.output=out optim.lr=1{'0' * 400}", "optim.lr=1000"),
        (
            "train",
            "tiny data.path=TABLE run.output=out data.tokenizer=vqgan-f16-1024 dry_run=true",
            "was made with tokenizer vqgan-demo-f8-512",
        ),
        ("evaluate", "tiny checkpoint=MODEL captions=latin.csv output=out", "line 2 is not UTF-8"),
        ("evaluate", "tiny checkpoint=MODEL captions=open.csv output=out", "line 2: a quote is not closed"),
        ("evaluate", "tiny checkpoint=MODEL captions=boxes.json output=out", "COCO's captions_*.json"),
        ("evaluate", "tiny checkpoint=MODEL captions=deep.json output=out", "nested too deeply"),
        ("evaluate", "tiny checkpoint=MODEL captions=half.jsonl output=out", "half of a surrogate pair"),
        ("evaluate", "tiny checkpoint=newer captions=c.txt output=out", "was made by emage 7.1.0, this is emage"),
        ("serve", "tiny checkpoint=newer port=8731", "was made by emage 7.1.0, this is emage"),
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
    Path("latin.csv").write_bytes("caption\nfür\n".encode("latin-1"))
    Path("open.csv").write_text('caption\n"a cat\na dog\n')
    Path("boxes.json").write_text('{"annotations": [{"id": 1, "bbox": [0, 0, 1, 1]}]}')
    Path("deep.json").write_text("[" * 100_000)
    Path("half.jsonl").write_text('{"caption": "\\ud800"}\n')
    Path("newer").mkdir()
    Path("newer/manifest.json").write_text('{"emage": "7.1.0", "parts": []}')
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
    assert "Traceback" not in done.stdout + done.stderr and "  File " not in done.stderr
    assert len(error) == 1 and error[0].startswith("error: ") and message in error[0], error
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    shutil.rmtree("taken")
