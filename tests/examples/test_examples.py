"""Every script of examples/ runs as its docstring states, and writes the files that it names."""

import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import emage
from emage.data import shapes_checker

EXAMPLES = Path(__file__).parents[2] / "examples"
LINES = 40


def run(name: str, folder: Path, *arguments: str) -> str:
    """Run an example in an empty folder, as a user does, and return what it printed."""
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_each_is_short_and_tested_here():
    scripts = {path.name: path.read_text() for path in EXAMPLES.glob("*.py")}
    assert all(len(text.splitlines()) <= LINES for text in scripts.values())
    assert all(f"python examples/{name}" in text.split('"""')[1] for name, text in scripts.items())
    tested = set(re.findall(r'run\("(\w+\.py)"', Path(__file__).read_text()))
    assert tested == scripts.keys()


def test_generate(tmp_path: Path):
    printed = run("generate.py", tmp_path)
    assert "2 images" in printed and "16 decoding steps" in printed
    assert Image.open(tmp_path / "grid.png").width > 200 and Image.open(tmp_path / "steps.png").width > 500


def test_inpaint(tmp_path: Path):
    run("inpaint.py", tmp_path)
    before, _, after = (
        np.asarray(Image.open(tmp_path / "inpainted.png").crop((x, 8, x + 128, 136)).resize((64, 64), Image.NEAREST))
        for x in (8, 152, 296)
    )
    assert np.abs(before[32:].astype(int) - after[32:]).max() < 30, "what is not masked must stay"
    assert shapes_checker.check(Image.fromarray(after), "a small green circle above a large blue square").objects


def test_add_a_method(tmp_path: Path):
    run("add_a_method.py", tmp_path)
    one, other = (np.asarray(Image.open(tmp_path / "checkerboard.png").crop((x, 8, x + 128, 136))) for x in (8, 152))
    assert one.std() > 20 and other.std() > 20 and not np.array_equal(one, other)


@pytest.mark.ray
@pytest.mark.faults  # takes longer than 10 seconds
def test_fine_tune(tmp_path: Path):
    run("fine_tune.py", tmp_path)
    pipe = emage.Emage.from_pretrained(tmp_path / "fine_tuned" / "run" / "model")
    images = pipe.generate(["a small red circle on top of a large blue square"] * 16, seed=range(16))
    meant = "a small red circle above a large blue square"
    correct = sum(shapes_checker.check(image, meant).relation for image in images)
    assert correct >= 8, f"{correct} of 16 images have the circle above the square (13 on one machine; 0 before)"


@pytest.mark.ray
@pytest.mark.faults  # takes longer than 10 seconds
def test_serve_and_call(tmp_path: Path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    printed = run("serve_and_call.py", tmp_path, str(port))
    assert "x image_generation.partial_image, then image_generation.completed" in printed
    image = Image.open(tmp_path / "served.png").convert("RGB")
    assert shapes_checker.check(image, "a small red circle above a large blue square").objects
