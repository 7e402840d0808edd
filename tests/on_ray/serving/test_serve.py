"""The endpoint on Ray Serve, over real HTTP, with a model of one colour. The API itself: tests/serving/http."""

import base64
import io
import runpy
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path
from typing import Any

import fake_pipe
import httpx
import openai
import pytest
from fake_pipe import colour
from PIL import Image
from programs import free_port

from emage.config import ServeConfig
from emage.utils.errors import InputError
from emage.utils.manifest import write_json

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[3]


def load_fake(config: ServeConfig) -> Any:
    return fake_pipe.FakePipe()


@pytest.fixture(scope="module")
def url(ray_cluster: None) -> Iterator[str]:
    import ray.cloudpickle

    from emage.on_ray.serving import driver as serve
    from emage.on_ray.serving.application import Inputs

    for module in (sys.modules[__name__], fake_pipe):
        ray.cloudpickle.register_pickle_by_value(module)  # a replica cannot import them
    config = ServeConfig(
        checkpoint="unused", port=free_port(), gpus_per_replica=0.0, max_batch_size=4, max_queued=12, timeout_s=5.0
    )
    yield serve.start(Inputs(config, key_sha256=None), load_fake)
    serve.stop()


def post(url: str, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/images/generations", json=body, timeout=30, headers=headers)


def pixel(b64: str | None) -> Any:
    return Image.open(io.BytesIO(base64.b64decode(b64 or ""))).getpixel((0, 0))


def is_image_of(answer: httpx.Response, prompt: str, seed: int, steps: int = 4) -> bool:
    assert answer.status_code == 200, answer.text
    return pixel(answer.json()["data"][0]["b64_json"]) == colour(prompt, seed, steps)


def num_generated(url: str) -> float:
    """Images generated so far, by the metrics of all nodes' exporters."""
    text = httpx.get(f"{url}/metrics", timeout=30).text
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith("ray_emage_pictures_total{"))


def test_the_official_client_generates_streams_and_edits(url: str) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    answer = client.images.generate(prompt="a", n=2, extra_body={"seed": 7})
    assert answer.data and [pixel(item.b64_json) for item in answer.data] == [colour("a", seed, 4) for seed in (7, 8)]
    *previews, last = client.images.generate(prompt="a", stream=True, extra_body={"seed": 7})
    assert len(previews) == 3 and pixel(last.b64_json) == colour("a", 7, 4)
    file = io.BytesIO()
    Image.new("RGBA", (24, 16)).save(file, "PNG")
    assert client.images.edit(image=file.getvalue(), prompt="a").data
    with pytest.raises(openai.BadRequestError, match="steps=0: must be a whole number from 1 to 96"):
        client.images.generate(prompt="a", extra_body={"steps": 0})


def test_same_seed_same_bytes_alone_and_in_a_batch(url: str) -> None:
    bodies = [{"prompt": f"image {i % 5}", "seed": i, "steps": 4 + i % 3} for i in range(16)]
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: post(url, **body), bodies))
    assert all(is_image_of(answer, **body) for answer, body in zip(answers, bodies, strict=True))


def test_overload_is_rejected_in_the_apis_form(url: str) -> None:
    with ThreadPoolExecutor(60) as pool:
        answers = list(pool.map(lambda seed: post(url, prompt="busy", seed=seed), range(60)))
    rejected = [answer for answer in answers if answer.status_code != 200]
    assert rejected and len(rejected) < 60
    for answer in rejected:
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        assert answer.headers["Retry-After"]


def test_a_deadline_holds_whatever_the_client_asks_of_serve(url: str) -> None:
    asked = ({}, {"x-request-timeout-seconds": "0", "x-request-disconnect-disabled": "?1"})
    started = time.monotonic()
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = list(pool.map(lambda headers: post(url, headers, prompt="slow", steps=90), asked))
    assert [(answer.status_code, answer.json()["error"]["code"]) for answer in answers] == [(408, "timeout")] * 2
    assert 4 < time.monotonic() - started < 15
    assert httpx.get(f"{url}/health").status_code == 200
    assert is_image_of(post(url, prompt="a", seed=1), "a", 1)


def test_a_client_that_disconnects_stops_the_generation(url: str) -> None:
    body = {"prompt": "slow", "stream": True, "steps": 16}
    with httpx.stream("POST", f"{url}/v1/images/generations", json=body, timeout=30) as answer:
        next(answer.iter_lines())
    started = time.monotonic()
    assert is_image_of(post(url, prompt="a", seed=1, steps=16), "a", 1, 16)  # waits for the previous batch
    assert time.monotonic() - started < 3  # 16 steps of 0.3 s were still to come


@pytest.mark.faults
def test_a_broken_model_is_replaced_without_help(url: str) -> None:
    answer = post(url, prompt="breaks")  # it breaks the next replica too: a request is started twice at most
    assert answer.status_code in (408, 500, 503) and answer.json()["error"]["code"]
    deadline = time.monotonic() + 60
    while post(url, prompt="a", seed=1).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}


def test_garbage_through_serves_proxy_is_rejected_and_the_next_request_is_served(url: str) -> None:
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    with socket.create_connection(address, timeout=10) as cut:  # an upload that ends in the middle
        cut.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n")
        cut.sendall(b'Content-Length: 1000\r\n\r\n{"prompt": "a')
    large = httpx.post(f"{url}/v1/images/generations", content=(b"x" * 1_000_000 for _ in range(30)), timeout=30)
    assert (large.status_code, large.json()["error"]["code"]) == (413, "request_too_large")
    deep = httpx.post(f"{url}/v1/images/generations", content=b"[" * 100_000, timeout=30)
    nan = httpx.post(f"{url}/v1/images/generations", content=b'{"prompt": "a", "temperature": NaN}', timeout=30)
    for answer in (deep, nan, post(url, prompt="x" * 40_000), httpx.get(f"{url}/v2")):
        assert 400 <= answer.status_code < 500 and answer.json()["error"]["message"]
    assert is_image_of(post(url, prompt="a", seed=1), "a", 1)


def test_metrics_are_those_of_every_process(url: str) -> None:
    assert is_image_of(post(url, prompt="a", seed=1), "a", 1)
    deadline = time.monotonic() + 60
    wanted = ("requests_total", "queue_wait_seconds", "batch_size", "step_seconds", "pictures_total", "request_seconds")
    while not all(f"ray_emage_{name}" in (text := httpx.get(f"{url}/metrics").text) for name in wanted):
        assert time.monotonic() < deadline, text
        time.sleep(0.5)
    assert 'route="/v1/images/generations"' in text and 'status="200"' in text and num_generated(url) >= 1


# --- Bad input --------------------------------------------------------------------------------------------------------


def test_a_missing_or_damaged_checkpoint_is_rejected_before_anything_starts(tmp_path: Path) -> None:
    from emage.on_ray.serving.application import read_inputs

    with pytest.raises(InputError, match="no such folder"):
        read_inputs(ServeConfig(checkpoint=str(tmp_path / "absent")))
    with pytest.raises(InputError, match="not a checkpoint folder"):
        read_inputs(ServeConfig(checkpoint=str(tmp_path)))
    files = dict.fromkeys(("model.safetensors", "tokenizer.safetensors", "config.yaml"), "0" * 64)
    record = {"files": files, "tokenizer": {"name": "vqgan-demo-f8-512", "sha256": "0" * 64}}
    write_json(tmp_path / "manifest.json", record)
    (tmp_path / "config.yaml").write_text("method: iterative3\n")
    (tmp_path / "model.safetensors").write_bytes(b"half of i")
    with pytest.raises(InputError, match=r"damaged checkpoint: model\.safetensors"):
        read_inputs(ServeConfig(checkpoint=str(tmp_path)))


def test_an_open_endpoint_without_a_key_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    from emage.config import AccessConfig
    from emage.on_ray.serving import checks
    from emage.on_ray.serving.application import read_inputs

    monkeypatch.delenv(checks.API_KEY_VARIABLE, raising=False)
    with pytest.raises(InputError, match=r"host=0\.0\.0\.0 is open to other machines: set EMAGE_API_KEY"):
        read_inputs(ServeConfig(checkpoint="demo", host="0.0.0.0"))
    monkeypatch.setenv(checks.API_KEY_VARIABLE, "a-key-of-24-characters-9")
    inputs = read_inputs(ServeConfig(checkpoint="demo", host="0.0.0.0"))
    assert inputs.key_sha256 == sha256(b"a-key-of-24-characters-9").hexdigest()
    with pytest.raises(InputError, match="is not a module:function"):
        read_inputs(ServeConfig(checkpoint="demo", access=AccessConfig(safety="emage.serving.safety:nothing")))


def test_a_precision_that_the_device_lacks_is_rejected() -> None:
    from emage.on_ray.serving import driver as serve

    with pytest.raises(InputError, match="a CPU has no TF32"):
        serve.validate(ServeConfig(checkpoint="demo", gpus_per_replica=0, dtype="tf32"))


def test_a_port_in_use_and_a_missing_gpu_are_rejected() -> None:
    from emage.on_ray.serving import driver as serve

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="choose another port"):
            serve.resolve(ServeConfig(checkpoint="unused", port=taken.getsockname()[1]))
    with pytest.raises(InputError, match="choose another port"):
        serve.resolve(ServeConfig(checkpoint="unused", port=70_000))
    with pytest.raises(InputError, match="gpus_per_replica asks for 64 GPUs"):
        serve.resolve(ServeConfig(checkpoint="unused", port=free_port(), gpus_per_replica=64.0))


def test_the_program_exits_2_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    program = str(ROOT / "pipelines/serve.py")
    monkeypatch.setattr(sys, "argv", [program, "demo", f"checkpoint={tmp_path}"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(program, run_name="__main__")
    printed = capsys.readouterr().err
    assert (ended.value.code, printed.count("\n")) == (2, 1)
    assert "is not a checkpoint folder" in printed
