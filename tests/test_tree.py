"""CONTRIBUTING.md names files that exist, and no two files of tests have one name."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_contributing_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    names = set(re.findall(r"`([\w/]+\.py)`", text))
    files = [path.as_posix() for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    assert [name for name in sorted(names) if not any(file.endswith(f"/{name}") for file in files)] == []


def test_test_files_have_unique_names():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
