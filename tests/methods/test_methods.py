"""The losses of the methods: what the network reads, which positions are scored, where gradients flow."""

import math

import pytest
import torch
from fakes import ITERATIVE, B, N, RecordingModel, V, certain_logits, network, rngs, tokens

from emage.config import ObjectiveConfig
from emage.methods import METHODS, iterative2, iterative3
from emage.methods.masking import MASK, ImageRng


def test_fully_nar_shows_nothing_and_scores_everything():
    model = RecordingModel(torch.zeros(N, V))
    loss = METHODS["fully_nar"].loss(model, tokens(), None, ObjectiveConfig(), ImageRng(range(B)))
    assert (model.shown[0] == MASK).all() and loss.count == B * N


def test_the_curriculum_of_fully_nar_masks_more_and_more_positions_until_all_are_masked():
    """Over half of 8 steps: after p of them ceil(p / 4 of the 16 positions), and at least one."""
    objective, counts = ObjectiveConfig(mask_curriculum=0.5), []
    for step in range(8):
        model, y = RecordingModel(torch.zeros(N, V)), tokens()
        loss = METHODS["fully_nar"].loss(model, y, None, objective, rngs(), step / 8)
        masked = model.shown[0] == MASK
        assert torch.equal(masked, loss.scored) and torch.equal(masked, loss.masked)
        assert torch.equal(model.shown[0][~masked], y[~masked])
        assert torch.equal(masked.sum(1), METHODS["fully_nar"].num_scored(N, objective, rngs(), step / 8))
        counts.append(masked.sum(1).unique().tolist())
    assert counts == [[1], [4], [8], [12], [16], [16], [16], [16]]


def test_the_curriculum_has_other_positions_for_each_image_and_ends_where_training_ends():
    def masks(objective: ObjectiveConfig, **progress: float) -> torch.Tensor:
        return (
            METHODS["fully_nar"]
            .loss(RecordingModel(torch.zeros(N, V)), tokens(), None, objective, rngs(), **progress)
            .masked
        )

    early = masks(ObjectiveConfig(mask_curriculum=1.0), progress=0.3)
    assert len({tuple(row) for row in early.tolist()}) == B and (early.sum(1) == 5).all()  # ceil(0.3 x 16)
    assert masks(ObjectiveConfig(mask_curriculum=1.0), progress=0.999).all()
    assert masks(ObjectiveConfig(mask_curriculum=1.0)).all(), "ranking by likelihood has no training to be early in"
    assert masks(ObjectiveConfig(), progress=0.0).all(), "off by default"


def test_autoregressive_shows_each_position_the_earlier_ones():
    model, y = RecordingModel(torch.zeros(N, V)), tokens()
    METHODS["autoregressive"].loss(model, y, None, ObjectiveConfig(), ImageRng(range(B)))
    assert (model.shown[0][:, 0] == MASK).all() and torch.equal(model.shown[0][:, 1:], y[:, :-1])


@pytest.mark.parametrize("name", ["iterative1", "iterative2"])
def test_iterative1_and_iterative2_score_the_masked_positions_alone(name: str):
    # Correct at even positions, uniform at odd ones: the loss follows from the mask that was shown.
    y = tokens()
    model = RecordingModel(torch.zeros(N, V))
    logits = torch.where((torch.arange(N) % 2 == 0)[:, None], certain_logits(y[0].tolist(), V), torch.zeros(N, V))
    model.logits = logits
    loss = METHODS[name].loss(model, y[:1].repeat(B, 1), None, ObjectiveConfig(), ImageRng(range(B)))
    masked = model.shown[-1] == MASK
    assert torch.equal(masked, loss.masked) and loss.count == masked.sum()
    assert loss.total.item() == pytest.approx(masked[:, 1::2].sum().item() * math.log(V), rel=1e-4)


def test_iterative2_mixes_its_own_tokens_into_the_context_but_targets_the_truth():
    y = torch.zeros(B, N, dtype=torch.long)
    model = RecordingModel(certain_logits([3] * N, V))  # always predicts 3; the true token is 0
    loss = iterative2.loss(model, y, None, ObjectiveConfig(), ImageRng(range(B)))
    first, second = model.shown
    assert set(first.unique().tolist()) <= {MASK, 0}
    assert (second[(first == 0) & (second != MASK)] == 0).all()  # what was visible stays true
    assert (second[(first == MASK) & (second != MASK)] == 3).all()  # what was masked is the model's
    assert (second == 3).any()
    assert loss.total.item() == pytest.approx(50 * loss.count.item(), rel=1e-3)  # wrong everywhere: targets are Y


def test_iterative3_feeds_back_its_tokens_for_all_positions_and_scores_all():
    y = torch.zeros(B, N, dtype=torch.long)
    model = RecordingModel(certain_logits([3] * N, V))
    loss = iterative3.loss(model, y, None, ObjectiveConfig(), ImageRng(range(B)))
    assert set(model.shown[1].unique().tolist()) == {MASK, 3}
    assert loss.count == B * N


@pytest.mark.parametrize("name", ITERATIVE)
def test_masks_follow_the_mask_schedule(name: str):
    for schedule, fraction in (("linear", 0.5), ("cosine", 2 / math.pi)):
        model = RecordingModel(torch.zeros(N, V))
        METHODS[name].loss(model, tokens(2000), None, ObjectiveConfig(mask_schedule=schedule), rngs(2000))
        for shown in model.shown:
            assert (shown == MASK).float().mean().item() == pytest.approx(
                fraction + 1 / (2 * N), abs=0.04
            )  # rounded up


def test_ground_truth_share_puts_the_truth_back():
    y = torch.zeros(200, N, dtype=torch.long)
    model = RecordingModel(certain_logits([3] * N, V))
    iterative3.loss(model, y, None, ObjectiveConfig(ground_truth_share=0.25), ImageRng(range(200)))
    visible = model.shown[1][model.shown[1] != MASK]
    assert (visible == 0).float().mean().item() == pytest.approx(0.25, abs=0.04)


def test_a_sampled_first_pass_differs_by_seed_only_and_argmax_not_at_all():
    y, logits = tokens(1), torch.zeros(N, V)

    def second_pass(seed: int, how: str) -> torch.Tensor:
        model = RecordingModel(logits)
        iterative3.loss(model, y, None, ObjectiveConfig(first_pass=how), ImageRng([seed]))
        return model.shown[1]

    assert torch.equal(second_pass(1, "sample"), second_pass(1, "sample"))
    assert not torch.equal(second_pass(1, "sample"), second_pass(2, "sample"))
    assert set(second_pass(1, "argmax").unique().tolist()) <= {MASK, 0}


@pytest.mark.parametrize("name", ["iterative2", "iterative3"])
def test_no_gradient_flows_through_the_first_pass(name: str):
    logits = torch.zeros(N, V, requires_grad=True)
    graphs: list[bool] = []

    def model(y, context):
        out = (logits + 0).expand(len(y), N, V)
        graphs.append(out.requires_grad)
        return out

    METHODS[name].loss(model, tokens(), None, ObjectiveConfig(), ImageRng(range(B)))
    assert graphs == [False, True]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fully_nar", 2.4500),
        ("iterative1", 2.4118),
        ("iterative2", 2.4116),
        ("iterative3", 2.4375),
        ("autoregressive", 2.3917),
        ("parallel_autoregressive", 2.4585),
    ],
)
def test_fixed_seed_loss(name: str, expected: float):
    """A change of these values is a change of a method, of the network's initial weights or of the masks."""
    net = network(name)
    context = net.encode_text(net.text.tokenize(["a red circle"] * B)[0])
    loss = METHODS[name].loss(net.decoder, tokens(), context, ObjectiveConfig(), ImageRng(range(B)))
    assert loss.total.item() / loss.count.item() == pytest.approx(expected, abs=2e-3)


def test_ground_truth_share_applies_to_iterative2_as_well():
    y = torch.zeros(200, N, dtype=torch.long)
    model = RecordingModel(certain_logits([3] * N, V))
    iterative2.loss(model, y, None, ObjectiveConfig(ground_truth_share=0.25), ImageRng(range(200)))
    first, second = model.shown
    own = second[(first == MASK) & (second != MASK)]
    assert (own == 0).float().mean().item() == pytest.approx(0.25, abs=0.05)
