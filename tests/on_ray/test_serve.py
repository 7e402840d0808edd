"""The endpoint over real HTTP: with a model that draws one colour, then the program with a real (untrained) one."""

import base64
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from emage.config import CheckpointConfig, ModelConfig, SamplingConfig, ServeConfig
from emage.errors import InputError
from emage.manifest import write_json

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def load_fake(config: ServeConfig) -> Any:
    import time
    import zlib
    from dataclasses import replace
    from typing import Any  # this function travels alone

    class OneColour:
        """The colour depends on prompt, seed and steps. A few prompts misbehave."""

        size = (16, 24)

        def settings(self, **sampling: Any) -> SamplingConfig:
            if sampling.get("steps", 1) < 1:
                raise InputError(f"steps must lie in 1..96, not {sampling['steps']}")
            return replace(SamplingConfig(), **sampling)

        def num_cut(self, prompts: Any) -> int:
            return sum(len(prompt) > 77 for prompt in prompts)

        def generate(self, prompts: Any, *, seed: Any, steps: int, **_: Any) -> list[Image.Image]:
            time.sleep({"slow": 4.0, "busy": 0.2}.get(prompts[0], 0.01))
            if "fails" in prompts:
                raise RuntimeError("a CUDA error, say")
            codes = [zlib.crc32(f"{prompt} {s} {steps}".encode()) for prompt, s in zip(prompts, seed, strict=True)]
            return [Image.new("RGB", (24, 16), (code & 255, code >> 8 & 255, code >> 16 & 255)) for code in codes]

    return OneColour()


@pytest.fixture(scope="module")
def url(ray_cluster: None) -> Iterator[str]:
    import ray.cloudpickle

    from emage.on_ray import serve

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a replica cannot import this file
    config = ServeConfig(
        checkpoint="unused",
        port=free_port(),
        gpus_per_replica=0.0,
        max_batch_size=4,
        max_queued_requests=16,
        timeout_s=3.0,
    )
    yield serve.start(config, load_fake)
    serve.stop()


def post(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/images/generations", json=body, timeout=30)


def pictures(answer: httpx.Response) -> list[bytes]:
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(item["b64_json"]) for item in answer.json()["data"]]


def pixels(answer: httpx.Response) -> np.ndarray:
    (png,) = pictures(answer)
    return np.asarray(Image.open(io.BytesIO(png))).astype(int)


def at_once(url: str, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: post(url, **body), bodies))


def test_every_sampling_setting_can_be_asked_for() -> None:
    from emage.on_ray import serve

    assert {field.name for field in fields(SamplingConfig)} <= set(serve.ImageRequest.model_fields)


# --- The API ----------------------------------------------------------------------------------------------------------


def test_a_request_gives_a_png(url: str) -> None:
    answer = post(url, prompt="a red bus", model="emage", size="24x16", response_format="b64_json", user="me", seed=7)
    (png,) = pictures(answer)
    picture = Image.open(io.BytesIO(png))
    assert (picture.format, picture.mode, picture.size) == ("PNG", "RGB", (24, 16))
    assert abs(answer.json()["created"] - time.time()) < 60
    assert answer.json()["data"][0]["seed"] == 7 and not answer.json()["prompt_cut"]
    assert post(url, prompt="a red bus " * 20).json()["prompt_cut"]


def test_n_pictures_have_consecutive_seeds(url: str) -> None:
    first, second = pictures(post(url, prompt="a red bus", n=2, seed=7))
    assert first != second
    assert pictures(post(url, prompt="a red bus", seed=8)) == [second]


def test_without_a_seed_every_answer_differs_and_names_its_seed(url: str) -> None:
    one, other = post(url, prompt="a red bus"), post(url, prompt="a red bus")
    assert pictures(one) != pictures(other)
    assert pictures(post(url, prompt="a red bus", seed=one.json()["data"][0]["seed"])) == pictures(one)


def test_same_seed_same_bytes_alone_and_in_company(url: str) -> None:
    bodies = [{"prompt": f"picture {i % 5}", "seed": i, "steps": 4 + i % 3} for i in range(16)]
    alone = [pictures(post(url, **body)) for body in bodies]
    assert [pictures(answer) for answer in at_once(url, bodies)] == alone


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": "  "}, "prompt", "invalid_value"),
        ({"prompt": "x" * 4001}, "prompt", "invalid_value"),
        ({"prompt": 7}, "prompt", "invalid_value"),
        ({"prompt": "a", "n": 0}, "n", "invalid_value"),
        ({"prompt": "a", "n": 11}, "n", "invalid_value"),
        ({"prompt": "a", "n": "2"}, "n", "invalid_value"),
        ({"prompt": "a", "size": "1024x1024"}, "size", "invalid_value"),
        ({"prompt": "a", "response_format": "url"}, "response_format", "invalid_value"),
        ({"prompt": "a", "seed": -1}, "seed", "invalid_value"),
        ({"prompt": "a", "steps": 0}, "steps", "invalid_value"),
        ({"prompt": "a", "schedule": "sine"}, "schedule", "invalid_value"),
        ({"prompt": "a", "stepz": 4}, "stepz", "unknown_parameter"),
    ],
)
def test_validation_errors_have_the_apis_form(url: str, body: dict[str, Any], param: str, code: str) -> None:
    answer = post(url, **body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert param in error["message"] and "\n" not in error["message"]


def test_other_errors_have_the_apis_form_too(url: str) -> None:
    unreadable = httpx.post(f"{url}/v1/images/generations", content=b"{", headers={"Content-Type": "application/json"})
    answers = {
        (400, "invalid_json"): unreadable,
        (404, "model_not_found"): post(url, prompt="a", model="other"),
        (404, "not_found"): httpx.get(f"{url}/v2"),
        (405, "method_not_allowed"): httpx.get(f"{url}/v1/images/generations"),
        (500, "drawing_failed"): post(url, prompt="fails"),
    }
    for (status, code), answer in answers.items():
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert "Traceback" not in answer.text and "CUDA" not in answer.text


def test_health_and_models(url: str) -> None:
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    (model,) = httpx.get(f"{url}/v1/models").json()["data"]
    assert (model["id"], model["object"]) == ("emage", "model")
    assert "/v1/images/generations" in httpx.get(f"{url}/openapi.json").json()["paths"]


def test_overload_is_refused_at_once(url: str) -> None:
    answers = at_once(url, [{"prompt": "busy", "seed": i} for i in range(40)])
    refused = [answer for answer in answers if answer.status_code != 200]
    drawn = [answer for answer in answers if answer.status_code == 200]
    assert refused and drawn
    assert max(a.elapsed for a in refused) < max(a.elapsed for a in drawn)  # nobody waits for a place first
    for answer in refused:
        assert (answer.status_code, answer.json()["error"]["type"]) == (429, "rate_limit_error")
        assert answer.headers["Retry-After"]


def test_a_deadline_answers_408_and_the_next_request_is_served(url: str) -> None:
    answer = post(url, prompt="slow")
    assert (answer.status_code, answer.json()["error"]["code"]) == (408, "timeout")
    assert httpx.get(f"{url}/health").status_code == 200  # while the model is still busy
    assert pictures(post(url, prompt="a red bus"))


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_what_is_no_checkpoint_is_said_before_anything_starts(tmp_path: Path) -> None:
    from emage.on_ray import serve

    with pytest.raises(InputError, match="no such folder"):
        serve.check(ServeConfig(checkpoint=str(tmp_path / "absent")))
    with pytest.raises(InputError, match="no checkpoint folder"):
        serve.check(ServeConfig(checkpoint=str(tmp_path)))
    files = dict.fromkeys(("model.safetensors", "tokenizer.safetensors", "config.yaml"), "0" * 64)
    record = {"files": files, "tokenizer": {"name": "vqgan-demo-f8-512", "sha256": "0" * 64}}
    write_json(tmp_path / "manifest.json", record)
    (tmp_path / "config.yaml").write_text("method: iterative3\n")
    (tmp_path / "model.safetensors").write_bytes(b"half of i")
    with pytest.raises(InputError, match=r"damaged checkpoint: model\.safetensors"):
        serve.check(ServeConfig(checkpoint=str(tmp_path)))


def test_a_port_in_use_and_a_missing_gpu_are_said(ray_cluster: None) -> None:
    from emage.on_ray import serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="choose another port"):
            serve.start(ServeConfig(checkpoint="unused", port=taken.getsockname()[1]))
    with pytest.raises(InputError, match="choose another port"):
        serve.start(ServeConfig(checkpoint="unused", port=70_000))
    with pytest.raises(InputError, match="gpus_per_replica asks for 64 GPUs"):
        serve.start(ServeConfig(checkpoint="unused", port=free_port(), gpus_per_replica=64.0))


def test_the_program_exits_2_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    program = str(ROOT / "pipelines/serve.py")
    monkeypatch.setattr(sys, "argv", [program, "demo", f"checkpoint={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(program, run_name="__main__")
    printed = capsys.readouterr().err
    assert (ended.value.code, printed.count("\n")) == (2, 1)
    assert "is no checkpoint folder" in printed


# --- The program, with a real model -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of random weights and a tokenizer that makes 32x32 pictures."""
    import torch

    from emage import checkpoint as files
    from emage.tokenizers import load_file, save
    from emage.tokenizers.vqgan import VQGAN, VQGANConfig

    folder = tmp_path_factory.mktemp("checkpoint")
    small = VQGANConfig(
        vocab_size=32,
        code_dim=8,
        z_channels=8,
        channels=8,
        channel_mult=(1, 1, 1),
        num_res_blocks=1,
        num_groups=4,
        resolution=32,
        attention_resolutions=(),
    )
    torch.manual_seed(0)
    save(VQGAN(small, "tiny"), folder / "tiny.safetensors")
    config = CheckpointConfig(
        vocab_size=32,
        grid=(8, 8),
        model=ModelConfig(width=64, depth=2, num_heads=2, text="clip_tiny", text_length=24),
        sampling=SamplingConfig(steps=4),
    )
    files.save(folder / "model", files.build(config), load_file(folder / "tiny.safetensors"), config, {"step": 0})
    return folder / "model"


@pytest.mark.slow
def test_the_program_serves_a_checkpoint_until_sigterm(checkpoint: Path, tmp_path: Path) -> None:
    import emage

    port = free_port()
    command = [sys.executable, str(ROOT / "pipelines/serve.py"), "demo", f"checkpoint={checkpoint}", f"port={port}"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
    try:
        deadline = time.monotonic() + 300
        while "ready: " not in (text := (tmp_path / "log").read_text()):
            assert process.poll() is None and time.monotonic() < deadline, text
            time.sleep(0.2)
        (curl,) = [line for line in text.splitlines() if line.startswith("curl ")]
        subprocess.run(curl, shell=True, cwd=tmp_path, check=True, timeout=60)
        prompt = json.loads(curl.partition("-d '")[2].partition("'")[0])["prompt"]
        expected = emage.Emage.from_pretrained(str(checkpoint), device="cpu").generate([prompt], seed=7)[0]
        picture = Image.open(tmp_path / "picture.png")
        assert picture.size == (32, 32)
        assert np.abs(np.asarray(picture).astype(int) - np.asarray(expected)).max() <= 1
        url = f"http://127.0.0.1:{port}"
        bodies = [{"prompt": f"picture {i}", "seed": i, "steps": 3 + i % 2, "candidates": 1 + i // 6} for i in range(8)]
        alone = [pixels(post(url, **body)) for body in bodies]
        for here, there in zip(map(pixels, at_once(url, bodies)), alone, strict=True):
            assert np.abs(here - there).max() <= 1  # of 255: the tokens are the same, a convolution may round otherwise
        assert post(url, prompt="a", steps=65).json()["error"]["param"] == "steps"  # the model has 64 tokens
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
