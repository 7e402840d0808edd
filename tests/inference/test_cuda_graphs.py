import weakref
from collections.abc import Iterator
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from PIL import Image

from emage.config import CheckpointConfig, Method, ModelConfig
from emage.inference import cuda_graphs
from emage.inference.cuda_graphs import CudaGraphCache, Tensors
from emage.inference.inpainting import InpaintingInput
from emage.inference.pipeline import Emage
from emage.methods import METHODS
from emage.model.transformer import Network
from emage.tokenizers.vqgan import VQGAN, VQGANConfig

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
MODEL = ModelConfig(width=64, depth=2, num_heads=4, text="clip_tiny")
PROMPTS = ["a red circle", "a blue square", "a green cross"]


def doubled(inputs: Tensors) -> Iterator[Tensors]:
    """Keep a tensor from one yield to the next, as a method does."""
    x = inputs[0]
    for _ in range(3):
        x = 2 * x
        yield (x, x + 1)


def test_on_a_cpu_work_runs_eagerly():
    cache = CudaGraphCache(torch.device("cpu"))
    for start in (1.0, 5.0, 7.0):
        found = [(a.item(), b.item()) for a, b in cache.run("doubled", doubled, [torch.tensor(start)], 3)]
        assert found == [(start * 2**i, start * 2**i + 1) for i in (1, 2, 3)]


def model(method: Method, device: str) -> Emage:
    torch.manual_seed(0)
    network = Network(MODEL, 512, (8, 8), METHODS[method].CAUSAL).to(device)
    tokenizer = VQGAN(VQGANConfig(512, 32, 32, 32, num_groups=8, resolution=64, attention_resolutions=())).to(device)
    return Emage(network, tokenizer.eval(), CheckpointConfig(method, 512, (8, 8), MODEL))


def tokens(pipe: Emage, seeds: list[int], **sampling) -> list[torch.Tensor]:
    passes = pipe.generation_steps(PROMPTS[: len(seeds)], seeds, pipe.settings(steps=6, **sampling))
    return [after.tokens.y_obs.cpu() for after in passes]


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"guidance": 2.0},
        {"guidance": 2.0, "guidance_schedule": "linear"},
        {"order": "halton", "remask": 0.2},
        {"order": "random", "top_k": 5, "top_p": 0.9},
        {"temperature": 0},
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_captured_steps_give_the_tokens_of_eager_ones(method: Method, sampling: dict):
    pipe = model(method, "cuda")
    for seeds in ([1, 2, 3], [4, 5, 6], [7, 8, 9]):  # eager, captured and replayed, replayed
        replayed = tokens(pipe, seeds, **sampling)
        pipe.runner.use_cuda_graphs = False
        eager = tokens(pipe, seeds, **sampling)
        pipe.runner.use_cuda_graphs = True
        assert len(replayed) == len(eager)
        assert all(torch.equal(a, b) for a, b in zip(replayed, eager, strict=True))
    pool = pipe.runner.graphs._single if method == "fully_nar" else pipe.runner.graphs._stepwise
    assert any(key[0] == "steps" for key in pool.captured)


def edits(pipe: Emage, number: int) -> list[InpaintingInput]:
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 64, 8 * number))
    return [pipe.prepare_inpainting(image, mask)]


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("method", ["iterative1", "iterative3", "autoregressive"])
def test_captured_steps_inpaint_masks_of_any_size(method: Method):
    pipe = model(method, "cuda")
    settings = pipe.settings(steps=6)
    for number in (8, 2, 5):
        replayed, eager = (
            [after.tokens.y_obs.cpu() for after in pipe.generation_steps(PROMPTS[:1], [number], settings, canvases)]
            for pipe.runner.use_cuda_graphs, canvases in (
                (True, edits(pipe, number)),
                (False, edits(pipe, number)),
            )
        )
        assert all(torch.equal(a, b) for a, b in zip(replayed, eager, strict=True))


@pytest.mark.gpu
@gpu
def test_captured_graphs_survive_many_other_keys():
    pipe = model("iterative1", "cuda")
    before = [tokens(pipe, [seed])[-1] for seed in (1, 2, 3)]
    for steps in range(7, 47):
        for _ in range(2):
            *_, last = pipe.generation_steps(PROMPTS[:1], [0], pipe.settings(steps=steps))
            last.images()
    assert all(torch.equal(tokens(pipe, [seed])[-1], kept) for seed, kept in zip((1, 2, 3), before, strict=True))


@pytest.mark.gpu
@gpu
def test_a_captured_model_is_freed_with_its_last_reference():
    pipe = model("iterative3", "cuda")
    pipe.warm_up(steps=6)
    weights = weakref.ref(pipe.network)
    del pipe
    assert weights() is None


@pytest.mark.gpu
@gpu
def test_two_images_at_once_do_not_share_graphs():
    pipe = model("iterative3", "cuda")
    alone = [tokens(pipe, [seed]) for seed in (1, 2)]
    pipe.warm_up(steps=6)
    settings = pipe.settings(steps=6)
    pairs = zip(*(pipe.generation_steps(PROMPTS[:1], [seed], settings) for seed in (1, 2)), strict=True)
    for i, pair in enumerate(pairs):
        assert all(torch.equal(after.tokens.y_obs.cpu(), alone[k][i]) for k, after in enumerate(pair))


@pytest.mark.gpu
@gpu
def test_a_preview_does_not_disturb_the_steps():
    pipe = model("iterative1", "cuda")
    pipe.warm_up((1,), steps=6)
    plain = np.asarray(pipe.generate(PROMPTS[:1], seed=3, steps=6)[0]).astype(int)
    previewed = list(pipe.stream(PROMPTS[0], seed=3, steps=6))
    assert len(previewed) == 6 and np.abs(np.asarray(previewed[-1]).astype(int) - plain).max() <= 1


@pytest.mark.gpu
@gpu
def test_the_tokens_of_a_step_stay_when_the_next_image_is_generated():
    pipe = model("iterative3", "cuda")
    pipe.warm_up(steps=6)
    settings = pipe.settings(steps=6)
    first = list(pipe.generation_steps(PROMPTS[:1], [1], settings))
    before = [after.tokens.guess.cpu() for after in first]
    list(pipe.generation_steps(PROMPTS[1:2], [2], settings))
    assert all(torch.equal(after.tokens.guess.cpu(), kept) for after, kept in zip(first, before, strict=True))


@pytest.mark.gpu
@gpu
@pytest.mark.parametrize("method", ["iterative1", "iterative3", "autoregressive"])
def test_compiled_it_generates_nearly_the_same_tokens(method: Method):
    pipe = model(method, "cuda")
    plain = tokens(pipe, [1, 2])
    pipe.compile()
    for _ in range(3):
        compiled_tokens = tokens(pipe, [1, 2])
    assert (compiled_tokens[0] == plain[0]).float().mean() > 0.9  # after the first step: rounding may change a token
    assert compiled_tokens[-1].min() >= 0


class FakeGraphs:
    """Stands in for captured graphs without a GPU: it counts its replays, and replays by running the work."""

    def __init__(self, work, inputs: Tensors, num_graphs: int, num_yields: int, pool: cuda_graphs.GraphPool):
        assert pool.lock.locked() and cuda_graphs._capturing.locked()
        if inputs[0].item() < 0:
            raise torch.OutOfMemoryError("no")
        self.work, self.replays = work, 0
        list(work(inputs))

    def replay(self, inputs) -> Iterator[Tensors]:
        self.replays += 1
        yield from self.work(tuple(inputs))


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> CudaGraphCache:
    monkeypatch.setattr(cuda_graphs, "CapturedGraphs", FakeGraphs)
    for name in ("current_stream", "default_stream", "graph_pool_handle", "Stream", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: "the same")
    monkeypatch.setattr(torch.cuda, "device", lambda _: nullcontext())
    return CudaGraphCache(torch.device("cuda"))


def once(cache: CudaGraphCache, start: float, key: str = "doubled", **more) -> list[float]:
    return [a.item() for a, _ in cache.run(key, doubled, [torch.tensor(start)], 3, **more)]


def num_replays(cache: CudaGraphCache, key: str = "doubled") -> int:
    graphs = cache._stepwise.captured.get(key)
    return graphs.replays if graphs else 0


def test_work_runs_eagerly_once_then_is_captured_then_replayed(cache: CudaGraphCache):
    counts = []
    for start in (1.0, 3.0, 5.0):
        assert once(cache, start) == [2 * start, 4 * start, 8 * start]
        counts.append(num_replays(cache))
    assert counts == [0, 1, 2] and not cache._stepwise.lock.locked()


def test_work_that_begins_before_other_work_ends_is_not_replayed(cache: CudaGraphCache):
    for start in (1.0, 3.0):
        once(cache, start)
    first = cache.run("doubled", doubled, [torch.tensor(1.0)], 3)
    next(first)
    assert num_replays(cache) == 2 and once(cache, 5.0) == [10.0, 20.0, 40.0]
    assert num_replays(cache) == 2
    first.close()  # as if the client had disconnected
    assert once(cache, 5.0) and num_replays(cache) == 3


def test_work_that_does_not_fit_into_memory_stays_eager(cache: CudaGraphCache, caplog):
    for _ in range(3):
        assert once(cache, -1.0) == [-2.0, -4.0, -8.0]
    assert num_replays(cache) == 0 and caplog.text.count("too little GPU memory to capture") == 1


def test_long_work_is_captured_if_all_its_steps_are_the_same(cache: CudaGraphCache, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cuda_graphs, "MAX_GRAPHS_PER_KEY", 2)
    for _ in range(3):
        once(cache, 1.0, "long")
        once(cache, 1.0, "same", same_every_step=True)
    assert num_replays(cache, "long") == 0 and num_replays(cache, "same") == 2


def test_an_error_during_a_capture_releases_the_locks(cache: CudaGraphCache):
    def broken(inputs: Tensors) -> Iterator[Tensors]:
        yield inputs
        raise ValueError("a bug")

    for _ in range(2):
        with pytest.raises(ValueError, match="a bug"):
            list(cache.run("broken", broken, [torch.tensor(1.0)], 2))
    assert not cuda_graphs._capturing.locked() and not cache._stepwise.lock.locked()
