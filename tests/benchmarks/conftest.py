"""Benchmarks are scripts, not a package: their tests load them from their files."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script(request: pytest.FixtureRequest) -> Iterator[Path]:
    """The script that the test module names as SCRIPT. It imports the modules next to it, as when it is started."""
    sys.path.append(str(FOLDER))
    yield FOLDER / request.module.SCRIPT
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def benchmark(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"{script.stem}_benchmark", script)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module
