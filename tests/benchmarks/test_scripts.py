"""Every benchmark can be started: what it imports from the package exists. Most are run only before a release."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.py")))
def test_it_can_be_imported(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    for loaded in [module for module in sys.modules if (FOLDER / f"{module}.py").exists()]:
        monkeypatch.delitem(sys.modules, loaded)
    importlib.import_module(name)
