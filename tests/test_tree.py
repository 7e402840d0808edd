"""Sizes of modules and folders, and file names, as CONTRIBUTING.md states them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_LINES, MAX_MODULES = 300, 10


def test_no_module_is_longer_than_300_lines():
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / "emage").rglob("*.py")}
    assert {str(path): length for path, length in lengths.items() if length > MAX_LINES} == {}


def test_no_folder_has_more_than_ten_modules():
    folders = {path.parent for path in (ROOT / "emage").rglob("*.py")}
    modules = {folder: [path for path in folder.glob("*.py") if path.name != "__init__.py"] for folder in folders}
    assert {str(folder): len(paths) for folder, paths in modules.items() if len(paths) > MAX_MODULES} == {}


def test_contributing_names_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    names = set(re.findall(r"`([\w/]+\.py)`", text))
    files = [path.as_posix() for path in ROOT.rglob("*.py") if ".venv" not in path.parts]
    assert [name for name in sorted(names) if not any(file.endswith(f"/{name}") for file in files)] == []


def test_test_files_have_unique_names():
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
