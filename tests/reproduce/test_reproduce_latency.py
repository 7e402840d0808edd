"""Timing, and the autoregressive model without its cache."""

from pathlib import Path

import pytest
import torch

from emage import Emage, tokenizers
from emage.config import CheckpointConfig, ModelConfig
from emage.model import checkpoint
from emage.reproduce import latency
from emage.reproduce.latency import LatencyConfig

PROMPT = "a small red circle above a large blue square"


@pytest.fixture(scope="module")
def autoregressive(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    model = ModelConfig(width=32, depth=1, num_heads=2, text="clip_tiny", text_length=16)
    config = CheckpointConfig("autoregressive", 512, (8, 8), model)
    folder = tmp_path_factory.mktemp("checkpoint") / "model"
    checkpoint.save(folder, checkpoint.build(config), tokenizers.load(tokenizers.DEMO), config, {"step": 0})
    return str(folder)


def test_calls_to_warm_up_do_not_count(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(latency.time, "perf_counter", lambda: next(clock))
    calls: list[int] = []
    assert latency.time_calls(lambda: calls.append(next(clock)), rounds=3, warm_up=2) == [2, 2, 2]
    assert len(calls) == 5


def test_summary_of_seconds():
    found = latency.summarize([1.0, 2.0, 3.0, 4.0, 100.0])
    assert found == {"median": 3, "min": 1, "max": 100, "lower": 2, "upper": 4, "iqr": 2, "pictures": 5}


def test_a_tiny_model_is_timed(tiny_model: Path):
    found = latency.measure(LatencyConfig(str(tiny_model), PROMPT, {"steps": 2}, rounds=3, warm_up=1, device="cpu"))
    assert 0 < found["min"] <= found["lower"] <= found["median"] <= found["upper"] <= found["max"]
    assert found["pictures"] == 3 and found["batch"] == 1 and found["dtype"] == "float32"
    assert "CPU cores" in found["device"]


def test_images_without_the_cache_are_the_same(autoregressive: str):
    pipe = Emage.from_pretrained(autoregressive, device="cpu")
    with_cache = pipe.generate([PROMPT, "a red bus"], seed=3)
    without = latency.without_cache(pipe)
    assert [image.tobytes() for image in without.generate([PROMPT, "a red bus"], seed=3)] == [
        image.tobytes() for image in with_cache
    ]


def test_without_the_cache_each_token_takes_a_forward_pass_over_all_tokens_so_far(autoregressive: str, monkeypatch):
    pipe = latency.without_cache(Emage.from_pretrained(autoregressive, device="cpu"))
    lengths: list[int] = []
    pipe.network.decoder.decoder.register_forward_pre_hook(lambda _, inputs: lengths.append(inputs[0].shape[1]))
    pipe.generate(PROMPT)
    assert lengths == list(range(1, 65))


def test_a_timing_without_the_cache(autoregressive: str):
    found = latency.measure(LatencyConfig(autoregressive, PROMPT, cached=False, rounds=1, warm_up=0, device="cpu"))
    assert found["median"] > 0 and found["pictures"] == 1
