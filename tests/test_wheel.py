"""What `pip install` of the built wheel gives, without this checkout: the shipped model and the command."""

import site
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from PIL import Image
from programs import ROOT

pytestmark = pytest.mark.faults

GENERATE = """
import emage
pipe = emage.Emage.from_pretrained("demo", device="cpu")
pipe.generate("a small red circle above a large blue square", seed=7)[0].save("image.png")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's files, as pip lays them out. Its build fetches setuptools, as `make setup` does."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "uv", "build", "--quiet", "--out-dir", str(folder), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "installed")
    return folder / "installed"


def run(installed: Path, code: str, folder: Path) -> str:
    """Runs code with the wheel and what it depends on, and nothing of this checkout."""
    code = f"import sys; sys.path = [{str(installed)!r}, *sys.path, *{site.getsitepackages()!r}]\n{code}"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_shipped_model_generates(installed: Path, tmp_path: Path):
    run(installed, GENERATE, tmp_path)
    with Image.open(tmp_path / "image.png") as image:
        assert image.size == (64, 64)
        assert len(image.getcolors(64 * 64) or ()) > 2  # shapes on a ground


def test_it_holds_the_package_its_data_and_the_command(installed: Path, tmp_path: Path):
    assert {path.name.partition("-")[0] for path in installed.iterdir()} == {"emage"}  # no tests, no benchmarks
    for name in (
        "model/pretrained/demo/model.safetensors",
        "serving/http/page/index.html",
        "serving/http/page/images/run.js",
    ):
        assert (installed / "emage" / name).is_file(), name
    (entry,) = installed.glob("emage-*.dist-info/entry_points.txt")
    assert "emage = emage.commands:main" in entry.read_text()
    assert "usage: emage COMMAND" in run(installed, "from emage.commands import main; main(['--help'])", tmp_path)
