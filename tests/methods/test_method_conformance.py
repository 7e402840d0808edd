"""The contract that every module in METHODS keeps. A new method is tested here without a line of its own.

B=3 images of N=16 tokens of V=11 codes; the network is a small real one.
"""

import math
from dataclasses import replace

import pytest
import torch
from fakes import TINY, B, N, RecordingModel, V, all_masked, network, rngs, tokens
from torch import Tensor

from emage.config import CheckpointConfig, ObjectiveConfig, SamplingConfig
from emage.inference.guidance import GuidedDecoder
from emage.inference.pipeline import Emage
from emage.methods import METHODS
from emage.methods.masking import MASK, BufferedRng, ImageRng
from emage.model import checkpoint
from emage.model.transformer import Network
from emage.tokenizers import weight_files
from emage.tokenizers.vqgan import VQGANConfig
from emage.training.optimizer import parameter_groups

STEPS = SamplingConfig(steps=4)
CAPTIONS = ["a red circle"] * B
every_method = pytest.mark.parametrize("name", list(METHODS))


def encode_text(net: Network, captions=CAPTIONS):
    return net.encode_text(net.text.tokenize(list(captions))[0])


def generate(name: str, net: Network, start: Tensor, settings: SamplingConfig = STEPS, seeds=range(B)) -> list:
    rng, context = ImageRng(seeds), encode_text(net, ["a red circle"] * len(start))
    return list(METHODS[name].generate(net.decoder, context, start, settings, rng))


# --- The module ---


@every_method
def test_it_has_the_agreed_names(name: str):
    method = METHODS[name]
    assert all(isinstance(getattr(method, flag), bool) for flag in ("CAUSAL", "TWO_PASSES", "PARTIAL_CONTEXT"))
    summary = (method.__doc__ or "").strip().split("\n\n")[0]
    assert summary.endswith("."), "its docstring begins with a sentence, which model cards show, and is the algorithm"


# --- The loss ---


@every_method
def test_uniform_logits_cost_the_logarithm_of_the_vocabulary(name: str):
    loss = METHODS[name].loss(RecordingModel(torch.zeros(N, V)), tokens(), None, ObjectiveConfig(), rngs())
    assert loss.total.item() / loss.count.item() == pytest.approx(math.log(V), rel=1e-5)


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
@every_method
def test_the_loss_is_a_sum_over_as_many_positions_as_num_scored_says(name: str, progress: float):
    objective = ObjectiveConfig(mask_curriculum=0.5)
    loss = METHODS[name].loss(RecordingModel(torch.zeros(N, V)), tokens(), None, objective, rngs(), progress)
    assert loss.scored.shape == loss.masked.shape == loss.nats.shape == (B, N) and loss.logits.shape == (B, N, V)
    assert torch.equal(loss.scored.sum(1), METHODS[name].num_scored(N, objective, rngs(), progress))
    assert loss.count == loss.scored.sum() and loss.total.item() == pytest.approx(loss.nats.sum().item())
    assert not loss.nats.requires_grad and (loss.nats[~loss.scored] == 0).all()


@every_method
def test_the_loss_of_an_image_depends_on_its_seed_and_not_on_its_batch(name: str):
    net, objective = network(name), ObjectiveConfig()

    def nats(rows: list[int]) -> Tensor:
        rng, context = ImageRng(rows), encode_text(net, ["a red circle"] * len(rows))
        return METHODS[name].loss(net.decoder, tokens()[rows], context, objective, rng).nats

    before = torch.random.get_rng_state()
    assert torch.allclose(nats([0, 1, 2])[1], nats([1])[0], atol=1e-5)
    assert torch.equal(torch.random.get_rng_state(), before), "randomness comes from `rng` alone"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@every_method
def test_every_parameter_has_a_gradient_after_one_step(name: str, precision: str):
    net = network(name)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):  # with its cache of cast weights
        loss = METHODS[name].loss(net.decoder, tokens(), encode_text(net), ObjectiveConfig(), rngs())
        (loss.total / loss.count).backward()
    assert [key for key, parameter in net.named_parameters() if parameter.grad is None] == []


@every_method
def test_overfits_one_batch(name: str):
    net = network(name)
    y, ids = tokens(2), net.text.tokenize(["a red circle", "a blue square"])[0]
    optimizer = torch.optim.AdamW(parameter_groups(net, 0.0), lr=3e-3)
    for step in range(100):
        rng = ImageRng([2 * step, 2 * step + 1])
        loss = METHODS[name].loss(net.decoder, y, net.encode_text(ids), ObjectiveConfig(ground_truth_share=0.5), rng)
        (loss.total / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss.total.item() / loss.count.item() < 0.2


# --- Generation ---


@every_method
def test_it_takes_num_steps_steps_and_ends_without_a_mask(name: str):
    steps = generate(name, network(name).eval(), all_masked(B, N))
    assert len(steps) == METHODS[name].num_steps(STEPS, N)
    for step in steps:
        assert step.y_obs.shape == step.guess.shape == (B, N) and step.y_obs.dtype == torch.int64
        assert step.guess.min() >= 0 and step.guess.max() < V, "a preview needs a token everywhere"
    assert steps[-1].y_obs.min() >= 0 and steps[-1].y_obs.max() < V
    counts = torch.stack([(step.y_obs != MASK).sum(1) for step in steps])
    assert (counts.diff(dim=0) >= 0).all() and (counts[-1] == N).all()


@every_method
def test_a_step_stays_as_it_was_when_others_follow(name: str):
    net, copies, steps = network(name).eval(), [], []
    for step in METHODS[name].generate(net.decoder, encode_text(net), all_masked(B, N), STEPS, rngs()):
        copies.append((step.y_obs.clone(), step.guess.clone()))
        steps.append(step)
    for step, (y_obs, guess) in zip(steps, copies, strict=True):
        assert torch.equal(step.y_obs, y_obs) and torch.equal(step.guess, guess)


@every_method
def test_given_tokens_stay(name: str):
    """Inpainting; the images have different numbers of given tokens, and one has nothing to generate."""
    y = tokens()
    given = torch.rand(B, N, generator=torch.Generator().manual_seed(3)) < torch.tensor([[0.2], [0.6], [1.0]])
    start = y.masked_fill(~given, MASK)
    for step in generate(name, network(name).eval(), start):
        assert torch.equal(step.guess[given], y[given])
    assert torch.equal(step.y_obs[given], y[given]) and (step.y_obs >= 0).all()
    assert torch.equal(start, y.masked_fill(~given, MASK)), "the caller's tensor is not written to"


@every_method
def test_an_image_does_not_depend_on_the_rest_of_the_batch(name: str):
    net = network(name).eval()
    alone = generate(name, net, all_masked(1, N), seeds=[7])[-1].y_obs
    among = generate(name, net, all_masked(4, N), seeds=[1, 7, 2, 3])[-1].y_obs
    assert torch.equal(alone[0], among[1]) and not torch.equal(among[0], among[1])


@pytest.mark.parametrize(
    "settings",
    [
        SamplingConfig(steps=N),
        SamplingConfig(steps=5, order="random", remask=0.3),
        SamplingConfig(steps=3, order="halton", gumbel=0),
        SamplingConfig(steps=1, temperature=0),
        SamplingConfig(steps=4, top_k=3, top_p=0.9, schedule="linear"),
    ],
)
@every_method
def test_random_numbers_generated_beforehand_are_enough_and_give_the_same_tokens(name: str, settings: SamplingConfig):
    net, method = network(name).eval(), METHODS[name]
    numbers = rngs().uniform(method.max_random_numbers(settings, N))
    *_, one = method.generate(net.decoder, encode_text(net), all_masked(B, N), settings, rngs())
    *_, other = method.generate(net.decoder, encode_text(net), all_masked(B, N), settings, BufferedRng(numbers))
    assert torch.equal(one.y_obs, other.y_obs)


@every_method
def test_the_text_is_encoded_once_per_image_not_once_per_step(name: str):
    net = network(name).eval()
    calls: list[str] = []
    net.text.tower.register_forward_hook(lambda *_: calls.append("text"))
    for block in net.decoder.blocks:
        block.cross.kv.register_forward_hook(lambda *_: calls.append("keys and values"))
    generate(name, net, all_masked(B, N))
    assert calls == ["text", *["keys and values"] * TINY.depth]


@every_method
def test_guidance_works_and_changes_the_tokens(name: str):
    net, settings = network(name).eval(), replace(STEPS, guidance=8.0)
    guided = GuidedDecoder(net.decoder, encode_text(net, [""] * B), settings, METHODS[name].num_steps(settings, N))
    *_, last = METHODS[name].generate(guided, encode_text(net), all_masked(B, N), settings, rngs())
    assert last.y_obs.min() >= 0
    assert not torch.equal(last.y_obs, generate(name, net, all_masked(B, N))[-1].y_obs)


# --- In the product ---


@every_method
def test_a_checkpoint_generates_streams_and_inpaints(name: str, tmp_path):
    torch.manual_seed(0)
    sizes = VQGANConfig(V, 4, 4, 8, (1, 2), 1, 4, 8, (4,))
    tokenizer = weight_files.build("tiny", sizes, weight_files.build_network(sizes, "tiny").state_dict())
    config = CheckpointConfig(name, V, (4, 4), replace(TINY), STEPS)  # type: ignore[arg-type]
    Emage(network(name), tokenizer, config).save_pretrained(tmp_path / "model")
    saved, _ = checkpoint.check(tmp_path / "model")
    assert saved.method == name
    pipe = Emage.from_pretrained(tmp_path / "model")
    (image,) = pipe.generate("a red circle", seed=7)
    *_, last = pipe.stream("a red circle", seed=7)
    assert image.size == last.size == (8, 8) and image.tobytes() == last.tobytes()
    mask = image.convert("L").point(lambda _: 255)
    assert pipe.inpaint(image, mask, "a red circle", seed=7).tobytes() == image.tobytes(), "all of it is generated"
