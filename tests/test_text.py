from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from emage.config import ModelConfig
from emage.errors import InputError
from emage.text import ClipText, load_published

CONFIG = ModelConfig(text="clip_tiny", text_length=16)


def tower(seed: int) -> ClipText:
    torch.manual_seed(seed)
    return ClipText(CONFIG).eval()


def test_states_have_the_right_shape_and_look_back_only():
    encoder = tower(0)
    ids = encoder.tokenize(["a small red circle", "a small red square"])
    states = encoder(ids)
    assert ids.shape == (2, 16) and states.shape == (2, 16, encoder.width)
    assert torch.allclose(states[0, :4], states[1, :4], atol=1e-6)  # begin, a, small, red
    assert not torch.allclose(states[0, 4], states[1, 4], atol=1e-3)


def test_a_long_caption_is_cut_and_still_ends():
    ids = tower(0).tokenize(["word " * 50])
    assert ids.shape == (1, 16) and ids[0, -1] == 49407


@pytest.mark.parametrize("form", ["clip.safetensors", "clip.bin", "clip.pt"])
def test_published_forms_load(form: str, tmp_path: Path):
    published = tower(1)
    weights = {**published.tower.state_dict(), "visual.conv1.weight": torch.zeros(2, 2), "logit_scale": torch.ones(())}
    if form.endswith("safetensors"):
        save_file(weights, tmp_path / form)
    elif form.endswith("bin"):
        torch.save(weights, tmp_path / form)
    else:  # OpenAI's own file is a TorchScript archive
        torch.jit.trace(published.tower, published.tokenize(["a cat"])).save(str(tmp_path / form))
    encoder = tower(2)
    load_published(encoder, ModelConfig(text="clip_tiny", text_length=16, text_weights=str(tmp_path / form)))
    ids = encoder.tokenize(["a cat"])
    assert torch.equal(encoder(ids), published(ids))


def test_files_that_do_not_fit_are_one_line(tmp_path: Path):
    save_file({"logit_scale": torch.ones(())}, tmp_path / "other.safetensors")
    (tmp_path / "text.pt").write_text("hello")
    for name, message in (
        ("other.safetensors", "does not hold the text tower"),
        ("text.pt", "no CLIP weights"),
        ("none.pt", "no CLIP weights"),
    ):
        config = ModelConfig(text="clip_tiny", text_length=16, text_weights=str(tmp_path / name))
        with pytest.raises(InputError, match=message) as error:
            load_published(tower(0), config)
        assert "\n" not in str(error.value)


def test_frozen_weights_get_no_gradient():
    encoder = ClipText(ModelConfig(text="clip_tiny", text_length=16, text_frozen=True))
    assert not encoder(encoder.tokenize(["a cat"])).requires_grad
    assert not [p for p in encoder.parameters() if p.requires_grad]
