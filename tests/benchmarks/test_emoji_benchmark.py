"""The benchmark on emoji: its data, its scores, a training that is stopped, and the script as a user starts it."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image, ImageDraw
from web import encode

from emage import tokenizers
from emage.methods import METHODS
from emage.tokenizers.vqgan import VQGAN, VQGANConfig
from emage.utils.errors import InputError

SCRIPT = "emoji.py"
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "brown", "black", "white", "grey")


def emoji_file(path: Path, count: int) -> Path:
    """Write a parquet file of RGBA discs on transparent ground."""
    images, captions = [], []
    for i in range(count):
        image = Image.new("RGBA", (128, 128))
        corner = 10 + 5 * (i // len(COLOURS))
        ImageDraw.Draw(image).ellipse((corner, corner, 110, 110), fill=COLOURS[i % len(COLOURS)])
        images.append(encode(image, "PNG"))
        captions.append(f"{COLOURS[i % len(COLOURS)]} circle {i // len(COLOURS)}")
    pq.write_table(pa.table({"image": images, "caption": captions}), path)
    return path


@pytest.fixture
def data(benchmark: ModuleType) -> ModuleType:
    return sys.modules["emoji_data"]


@pytest.fixture
def measuring(benchmark: ModuleType) -> ModuleType:
    return sys.modules["emoji_measure"]


@pytest.fixture
def training(benchmark: ModuleType) -> ModuleType:
    return sys.modules["emoji_train"]


def test_whole_captions_are_held_out_by_seed(data, tmp_path):
    emoji = data.read(emoji_file(tmp_path / "emoji.parquet", 20), limit=None)
    assert emoji.images.shape == (20, 3, 128, 128) and emoji.images[:, :, 0, 0].min() == 255  # over white
    twice = data.Emoji(torch.cat([emoji.images] * 2), emoji.captions * 2)
    train, held_out = data.split(twice, 0.2, seed=1)
    assert len(held_out.captions) == 8 and len(set(held_out.captions)) == 4
    assert set(train.captions) | set(held_out.captions) == set(emoji.captions)
    assert not set(train.captions) & set(held_out.captions)
    index = emoji.captions.index(held_out.captions[0])
    assert torch.equal(held_out.images[0], emoji.images[index])
    assert data.split(twice, 0.2, seed=1)[1].captions == held_out.captions
    assert data.split(twice, 0.2, seed=2)[1].captions != held_out.captions
    some = data.sample(emoji, 10, seed=0)
    assert some.captions != emoji.captions[:10] and len(set(some.captions)) == 10


def test_equal_features_have_no_distance_and_find_their_own_image(measuring):
    real = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    same = measuring.scores(real, real)
    assert same["frechet"] == pytest.approx(0, abs=1e-6) and same["nearest_10"] == 1
    assert measuring.scores(real + torch.tensor([2.0, 0, 0]), real)["frechet"] == pytest.approx(4, abs=1e-5)
    far = measuring.scores(torch.full((40, 3), 100.0), real)  # the same ten images are nearest to all
    assert far["nearest_10"] == 0.25


@pytest.mark.parametrize("method", METHODS)
def test_only_settings_that_differ_are_measured(measuring, method):
    found = [tuple(setting) for setting in measuring.settings_of(method, [4, 8], n=256)]
    halton, confidence = [(4, "halton"), (8, "halton")], [(4, "confidence"), (8, "confidence")]
    fixed = {"autoregressive": [(256, None)], "fully_nar": [(1, None)], "parallel_autoregressive": halton}
    assert found == fixed.get(method, confidence + halton)


def test_a_stopped_training_continues_with_the_same_weights(data, training, tmp_path, monkeypatch):
    size = VQGANConfig(16, 4, 4, 8, (1, 1, 1, 1), 1, 8, resolution=16, attention_resolutions=())
    tokenizers.save(VQGAN(size, "tiny"), tmp_path / "tiny.safetensors")
    tokenizer = tokenizers.load_file(tmp_path / "tiny.safetensors")
    images = torch.randint(256, (12, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    data.make_table(tmp_path / "tokens", data.Emoji(images, [f"image {i}" for i in range(12)]), tokenizer)
    config = training.settings_of("iterative3", tmp_path / "tokens", steps=6, batch=4, seed=0)
    monkeypatch.setattr(training, "STEPS_PER_SAVE", 2)
    monkeypatch.setattr(training, "STEPS_PER_LINE", 2)
    folders = [tmp_path / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()
    whole = training.train(folders[0], config, tokenizer)

    def stopping(engine, table, config, on_step, **rest):
        def until_five(step, metrics, batch):
            on_step(step, metrics, batch)
            if step == 5:  # the last saved step is 4: in the warm start 1 to 4, after it 5 and 6
                raise KeyboardInterrupt

        return fit(engine, table, config, until_five, **rest)

    fit = training.fit
    with monkeypatch.context() as stopped, pytest.raises(KeyboardInterrupt):
        stopped.setattr(training, "fit", stopping)
        training.train(folders[1], config, tokenizer)
    continued = training.train(folders[1], config, tokenizer)
    assert continued["loss"] == whole["loss"] and [step for step, _ in whole["loss"]] == [2, 4, 6]
    first, second = (training.pipe(folder).network.state_dict() for folder in folders)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert training.train(folders[1], config, tokenizer) == continued  # finished: nothing is trained


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "noto_emoji_128.parquet: no such file; --data FILE: the Noto emoji (github.com/googlefonts/noto-emoji"),
        (["--data", "none.parquet"], "none.parquet: no such file; --data FILE: the Noto emoji"),
        (["--held-out", "1"], "--held-out 1.0: must be between 0 and 1"),
        (["--passes", "4", "257"], "must be from 1 to the 256 tokens"),
        (["--steps", "0"], "--steps 0: must be at least 1"),
        (["--tokenizer", "none"], "--tokenizer none: no such file"),
        (["--data", "few.parquet"], "10 emoji, 1 held out: too few"),
    ],
)
def test_bad_input_is_one_line(benchmark, data, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(data, "default_file", lambda: None)
    emoji_file(tmp_path / "few.parquet", 10)
    with pytest.raises(SystemExit) as stopped:
        benchmark.main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_a_file_without_captions_is_refused(data, tmp_path):
    pq.write_table(pa.table({"image": [b""]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'caption'"):
        data.read(tmp_path / "a.parquet", None)


@pytest.mark.chaos
def test_the_script_itself(script: Path, tmp_path: Path):
    """As a user starts it, on few images: two methods, then the others by the same command, continued."""
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for file in [*script.parent.glob("emoji*.py"), script.parent / "results_file.py"]:
        shutil.copy(file, folder)
    small = ["--steps", "3", "--batch", "4", "--passes", "1", "3", "--tokenizer-steps", "3", "3", "--work", "work"]
    command = [sys.executable, str(folder / "emoji.py"), "--data", str(emoji_file(tmp_path / "e.parquet", 40)), *small]

    def run(*more: str) -> str:
        done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    first = run("--methods", "iterative1", "fully_nar")
    assert "iterative1: step 3/3, loss" in first and "minutes left" in first and "autoregressive" not in first
    results = json.loads((folder / "results" / "emoji.json").read_text())
    assert list(results["methods"]) == ["fully_nar", "iterative1"]
    second = run()
    assert "iterative1: step" not in second and "encoder," not in second
    results = json.loads((folder / "results" / "emoji.json").read_text())
    assert list(results["methods"]) == list(METHODS)
    for method, known in results["methods"].items():
        assert known["training_flops"] > 0 and known["parameters"] > 0
        assert all(row["flops_per_image"] > 0 and row["frechet"] >= 0 for row in known["generation"])
        counts = {"fully_nar": 1, "autoregressive": 1, "parallel_autoregressive": 2}
        assert len(known["generation"]) == counts.get(method, 4)
    assert results["captions"] == {"train": 36, "held_out": 4}
    for name in ("emoji.png", "emoji-grid.png"):
        assert Image.open(folder / "results" / name).width > 500
    refused = subprocess.run([*command, "--seed", "1"], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert refused.returncode == 2 and "already holds a run with seed=0 (now 1)" in refused.stderr.splitlines()[-1]
