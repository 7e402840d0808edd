import pytest
import torch

from emage.config import ModelConfig, OptimConfig, TrainConfig, preset
from emage.config.fields import problems
from emage.model.transformer import Network
from emage.training.optimizer import hidden_matrices, make_ema, make_optimizer, moment_names


def test_ema_weights_by_hand():
    layer = torch.nn.Linear(1, 1, bias=False)
    average = make_ema(layer, decay=0.25)
    expected = 0.0
    for n, value in enumerate([1.0, 2.0, 4.0, 8.0]):
        torch.nn.init.constant_(layer.weight, value)
        average.update_parameters(layer)
        decay = min(0.25, (1 + n) / (10 + n))
        expected = value if n == 0 else decay * expected + (1 - decay) * value
        assert average.module.weight.item() == pytest.approx(expected)


def test_muon_moves_a_matrix_by_an_orthogonal_one_as_large_as_an_update_of_adamw():
    torch.manual_seed(0)
    layer = torch.nn.Sequential(torch.nn.Linear(32, 8))
    optimizer = make_optimizer(layer, OptimConfig(optimizer="muon", lr=0.1, weight_decay=0.0))
    before = layer[0].weight.detach().clone()
    layer(torch.randn(64, 32)).square().sum().backward()
    optimizer.step()
    scales = torch.linalg.svdvals((before - layer[0].weight).detach()) / 0.1
    # PyTorch's five iterations bring singular values into 0.68 to 1.14; 0.2 sqrt(32) is the size of AdamW's updates.
    assert ((scales > 0.65 * 0.2 * 32**0.5) & (scales < 1.2 * 0.2 * 32**0.5)).all()


def test_every_parameter_has_one_group_and_muon_takes_hidden_matrices_alone():
    network = Network(ModelConfig(width=32, depth=1, num_heads=4, text="clip_tiny", text_length=5), 11, (2, 2), False)
    optimizer = make_optimizer(network, OptimConfig(optimizer="muon"))
    names = {parameter: name for name, parameter in network.named_parameters()}
    moments = moment_names(optimizer)
    assert sorted(map(names.get, moments)) == sorted(names.values())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    muons = {names[parameter] for parameter, kept in moments.items() if kept == ("momentum_buffer",)}
    assert "decoder.blocks.0.mlp.up.weight" in muons and "decoder.blocks.0.cross.kv.weight" in muons
    assert not [name for name in muons if name.endswith(("bias", "embedding.weight", "tokens.weight", "head.weight"))]
    assert muons == {names[parameter] for parameter in hidden_matrices(network)}


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_a_skipped_update_changes_nothing(kind: str):
    layer = torch.nn.Linear(4, 4)
    optimizer = make_optimizer(layer, OptimConfig(optimizer=kind))
    before = [parameter.detach().clone() for parameter in layer.parameters()]
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.skip = True
    optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(before, layer.parameters(), strict=True)) and not optimizer.state
    optimizer.skip = False
    optimizer.step()
    assert not any(torch.equal(*pair) for pair in zip(before, layer.parameters(), strict=True))


def test_muon_with_zero_is_one_line():
    config = preset(TrainConfig, "paper", data={"path": "x"}, run={"output": "x"}, optim={"optimizer": "muon"})
    assert [str(line) for line in problems(config)] == [
        "optim.optimizer=muon needs run.zero_stage=0 (it is 1): ZeRO divides the matrices that Muon needs whole"
    ]
