import pytest
import torch

from emage.config import ModelConfig, OptimConfig, TrainConfig, preset
from emage.methods.masking import MASK
from emage.model.transformer import Network, Transformer
from emage.tokenizers import TOKENIZERS
from emage.tokenizers.vqgan import VQGAN
from emage.training.optimizer import learning_rate, parameter_groups

SMALL = ModelConfig(width=32, depth=2, num_heads=2, text="clip_tiny", text_length=8)


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("name", "trainable", "whole"),
    [
        ("emage_346m", (277.3e6, 277.5e6), (346.3e6, 346.5e6)),  # the paper's 346M
        ("paper", (277.3e6, 277.5e6), (346.3e6, 346.5e6)),
        ("emage_vanilla", (249.8e6, 250.0e6), (318.8e6, 319.0e6)),  # GELU, learned positions: not 346M
    ],
)
def test_named_models_have_their_sizes(name: str, trainable: tuple[float, float], whole: tuple[float, float]):
    """Trainable, and with the frozen VQGAN (whose count is asserted in tests/tokenizers)."""
    config = preset(TrainConfig, name, data={"path": "unused"}, run={"output": "unused"})
    with torch.device("meta"):
        network = Network(config.model, 8192, (32, 32), causal=False)
        vqgan = VQGAN(TOKENIZERS[config.data.tokenizer].config, config.data.tokenizer)
    assert trainable[0] < count(network) < trainable[1]
    assert whole[0] < count(network) + count(vqgan) < whole[1]


def test_mask_is_an_input_only_row():
    net = Transformer(SMALL, vocab_size=11, grid=(4, 4), text_width=8)
    context = net.make_context(torch.randn(2, 5, 8))
    logits = net(torch.full((2, 16), MASK), context)
    assert logits.shape == (2, 16, 11) and net.tokens.num_embeddings == 12
    with pytest.raises(IndexError):
        net(torch.full((2, 16), 12), context)


def test_bidirectional_attends_to_the_whole_image_and_causal_to_earlier_positions():
    for causal in (False, True):
        torch.manual_seed(0)
        net = Transformer(SMALL, vocab_size=11, grid=(4, 4), text_width=8, causal=causal)
        context = net.make_context(torch.randn(1, 5, 8))
        y = torch.zeros(1, 16, dtype=torch.long)
        changed = y.clone()
        changed[0, 9] = 3
        moved = (net(y, context) - net(changed, context)).abs().amax(-1)[0] > 1e-7
        assert moved[9:].any()
        assert moved[:9].any() != causal


def test_width_must_split_into_heads():
    with pytest.raises(ValueError, match=r"model\.width 30"):
        Transformer(ModelConfig(width=30, num_heads=4))


def test_decay_falls_on_matrices_alone():
    network = Network(SMALL, 11, (4, 4), causal=False)
    names = {id(p): name for name, p in network.named_parameters()}
    decayed, kept = ([names[id(p)] for p in group["params"]] for group in parameter_groups(network, 0.045))
    assert len(decayed) + len(kept) == len(names)
    assert all(name.endswith(("weight", "in_proj_weight")) for name in decayed)
    assert not [name for name in decayed if "norm" in name or "ln_" in name or "tokens" in name or "embedding" in name]
    assert "decoder.head.weight" in decayed and "decoder.positions.rows" in kept


def test_learning_rate_warms_up_and_falls_to_zero():
    config = OptimConfig(steps=1000, lr=1.0, warmup=0.02)
    rates = [learning_rate(step, config) for step in range(1000)]
    assert rates[0] == 1 / 20 and rates[19] == 1.0 and max(rates) == 1.0
    assert rates[20:] == sorted(rates[20:], reverse=True) and rates[-1] < 1e-4
    assert rates[510] == pytest.approx(0.5, abs=0.01)
