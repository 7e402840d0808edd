"""Other clients of OpenAI's images API, unchanged: JavaScript's openai, litellm, LangChain, Vercel's ai, curl, aiperf.

They are not of this project's environment: install.sh installs them into a folder, $EMAGE_CLIENTS.
"""

import base64
import io
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_process import serving
from PIL import Image

import emage
from emage.serving.http.app import Options, make_app
from emage.serving.service import QueueLimits, Service

HERE = Path(__file__).parent
PROMPT = "a small red circle above a large blue square"
FOLDER = Path(os.environ.get("EMAGE_CLIENTS", "/nonexistent"))
PYTHON, NODE = [FOLDER / "python/bin/python", HERE / "python_clients.py"], ["node", FOLDER / "javascript_clients.mjs"]
AIPERF = FOLDER / "aiperf/bin/aiperf"

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def named(demo_pipe: emage.Emage) -> Iterator[str]:
    options = Options(timeout_s=60.0, model_names=("emage", "dall-e-3"))
    with serving(lambda: make_app(Service(demo_pipe, QueueLimits()), options)) as url:
        yield url


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    Image.new("RGB", (64, 64), "white").save(tmp_path / "image.png")
    Image.new("L", (64, 64), "white").save(tmp_path / "mask.png")
    return tmp_path / "image.png", tmp_path / "mask.png"


def run(*command: Any, folder: Path | None = None) -> str:
    done = subprocess.run(list(map(str, command)), cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def opened(item: dict[str, Any]) -> Image.Image:
    data = item.get("b64_json") or item["url"].partition("base64,")[2]
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.skipif(not FOLDER.is_dir(), reason="EMAGE_CLIENTS names no folder: tests/serving/http/clients/install.sh")
@pytest.mark.parametrize(
    ("client", "program", "seeds"),  # seeds: of the images, in the order of the script; None: random
    [
        ("litellm", PYTHON, [7, 8, 7, None]),
        ("langchain", PYTHON, [None, None]),
        ("openai", NODE, [7, 8, None, 7]),
        ("ai-openai", NODE, [None, None, None]),
        ("ai-compatible", NODE, [None, None, None]),
    ],
)
def test_a_client_gets_its_images(
    named: str, demo_pipe: emage.Emage, files: tuple[Path, Path], client: str, program: list, seeds: list[int | None]
) -> None:
    images = [opened(item) for item in json.loads(run(*program, client, f"{named}/v1", *files))]
    assert [image.size for image in images] == [(64, 64)] * len(seeds)
    for image, seed in zip(images, seeds, strict=True):
        if seed is not None:
            assert image.tobytes() == demo_pipe.generate(PROMPT, seed=seed)[0].tobytes()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_sends_json_and_forms(named: str, demo_pipe: emage.Emage, files: tuple[Path, Path]) -> None:
    body = json.dumps({"prompt": PROMPT, "seed": 7, "quality": "high", "style": None})
    route = f"{named}/v1/images/generations"
    answer = json.loads(run("curl", "-sS", route, "-H", "Content-Type: application/json", "-d", body))
    assert opened(answer["data"][0]).tobytes() == demo_pipe.generate(PROMPT, seed=7)[0].tobytes()
    image, mask = (f"{name}=@{path}" for name, path in zip(("image[]", "mask"), files, strict=True))
    form = ["-F", image, "-F", mask, "-F", f"prompt={PROMPT}", "-F", "metadata[team]=art", "-F", "user="]
    answer = json.loads(run("curl", "-sS", f"{named}/v1/images/edits", *form))
    assert opened(answer["data"][0]).size == (64, 64) and len(answer["warnings"]) == 1


@pytest.mark.skipif(not AIPERF.exists(), reason="EMAGE_CLIENTS has no aiperf: tests/serving/http/clients/install.sh")
def test_aiperf_measures_without_an_error(named: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(json.dumps({"text": PROMPT}) + "\n")
    python = AIPERF.with_name("python")  # a tokenizer of words: aiperf would download one
    words = "from tokenizers import Tokenizer, models; from transformers import PreTrainedTokenizerFast as Fast; "
    words += "Fast(tokenizer_object=Tokenizer(models.WordLevel({'a': 0}, unk_token='a')), eos_token='a')"
    run(python, "-c", f"{words}.save_pretrained('words')", folder=tmp_path)
    command = [AIPERF, "profile", "--endpoint-type", "image-generation", "--url", named, "--model", "emage"]
    command += ["--input-file", "prompts.jsonl", "--custom-dataset-type", "single_turn", "--tokenizer", "words"]
    command += ["--request-count", 4, "--concurrency", 2, "--extra-inputs", "quality:high", "--ui", "none"]
    run(*command, "--output-artifact-dir", "out", folder=tmp_path)
    report = json.loads((tmp_path / "out/profile_export_aiperf.json").read_text())
    assert report["request_count"]["avg"] == 4 and not report.get("error_summary")
