"""docs/http_api.md: it is as the code generates it, its examples work, and its error codes are those of the code."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from emage.serving.error_codes import ERROR_CODES
from emage.serving.http import reference, reference_examples

ROOT = Path(__file__).parents[3]
EXAMPLES = re.findall(r"```(sh|python)\n(.*?)\n```", reference_examples.examples(), re.DOTALL)


def test_the_committed_page_is_current() -> None:
    page = ROOT / "docs/http_api.md"
    command = "python -m emage.serving.http.reference > docs/http_api.md"
    assert page.read_text() == reference.page(), f"run {command}"


@pytest.mark.parametrize(("language", "example"), EXAMPLES, ids=[str(i) for i in range(len(EXAMPLES))])
def test_examples_work(endpoint: str, language: str, example: str, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "image.png")
    Image.new("L", (64, 64), "white").save(tmp_path / "mask.png")
    before = (tmp_path / "image.png").read_bytes()
    code = example.replace(reference_examples.URL, endpoint)
    command = ["sh", "-ec", code] if language == "sh" else [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and not done.stderr, done.stderr
    if "> image.png" in code or '"wb"' in code:
        assert Image.open(tmp_path / "image.png").size == (64, 64)
        assert (tmp_path / "image.png").read_bytes() != before
    if "stream" in code:
        assert done.stdout.count("image_generation.partial_image") % 3 == 0 and ".completed" in done.stdout
    if "> answer.json" in code:
        assert '"b64_json"' in (tmp_path / "answer.json").read_text()


def test_every_error_code_is_used() -> None:
    files = [*(ROOT / "emage/serving").rglob("*.py"), *(ROOT / "emage/on_ray/serving").rglob("*.py")]
    source = "".join(path.read_text() for path in files if path.name != "error_codes.py")
    constants = {"model_broke": "BROKE_DURING_REQUEST", "model_broken": "BROKEN_BEFORE_REQUEST"}
    for code in ERROR_CODES:
        assert f'"{code}"' in source or constants.get(code, code) in source, code
