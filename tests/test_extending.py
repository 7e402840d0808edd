"""The recipes of docs/extending.md, applied to a copy of the code as they are printed."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
RECIPES = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
MAX_LINES = 15


def blocks(recipe: str) -> list[tuple[str, str, str]]:
    """Return (kind, path, text) of each fenced block."""
    return re.findall(r'^```(python|diff|sh)(?: title="([^"]+)")?\n(.*?)^```', RECIPES[recipe], re.M | re.S)


def apply(diff: str, path: Path) -> None:
    """Edit a file. "..." separates hunks; " " and "-" begin the lines of the old text, " " and "+" of the new."""
    text = path.read_text()
    for hunk in re.split(r"^\.\.\.$\n", diff, flags=re.M):
        old, new = ("\n".join(line[1:] for line in hunk.splitlines() if line[:1] in signs) for signs in (" -", " +"))
        assert text.count(old) == 1, f"{path.name}: {old!r} is in it {text.count(old)} times"
        text = text.replace(old, new)
    path.write_text(text)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_works_as_printed(recipe: str, tmp_path: Path):
    for folder in ("emage", "tests", "docs", "cluster", "pipelines"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    commands = []
    for kind, path, text in blocks(recipe):
        if kind == "python":
            (tmp_path / path).write_text(text)
        elif kind == "diff":
            apply(text, tmp_path / path)
        else:
            commands += text.splitlines()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PATH": path}
    assert commands
    for command in commands:
        done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_short(recipe: str):
    added = [
        line
        for kind, _, text in blocks(recipe)
        for line in text.splitlines()
        if line.strip("+ ") and (kind == "python" or line.startswith("+"))
    ]
    assert 0 < len(added) <= MAX_LINES, f"{recipe}: {len(added)} lines"
