"""The contract of both text encoders, and CLIP's published formats."""

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from emage.config import ModelConfig, ObjectiveConfig
from emage.inference import ranking
from emage.methods import iterative1
from emage.methods.masking import ImageRng
from emage.model.text import ENCODERS, TextEncoder, clip, load_published
from emage.model.text.clip import ClipText
from emage.model.transformer import Network
from emage.utils import manifest
from emage.utils.errors import InputError

CONFIG = ModelConfig(text="clip_tiny", text_length=16)
TINY = ["clip_tiny", "bert_tiny"]


def encoder(text: str, seed: int = 0, **values) -> TextEncoder:
    torch.manual_seed(seed)
    return ENCODERS[text](ModelConfig(text=text, text_length=16, **values)).eval()


def tower(seed: int) -> ClipText:
    torch.manual_seed(seed)
    return ClipText(CONFIG).eval()


# --- Both -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", TINY)
def test_ids_and_states_have_the_agreed_shapes(text: str):
    both = encoder(text)
    ids, truncated = both.tokenize(["red", ""])
    states = both(ids)
    assert (
        ids.shape == (2, 16)
        and ids.dtype == torch.int64
        and truncated.dtype == torch.bool
        and truncated.tolist() == [False] * 2
    )
    assert states.shape == (2, 16, both.width) and both.length == 16 and states.requires_grad


@pytest.mark.parametrize("text", TINY)
def test_a_caption_longer_than_the_positions_is_truncated_and_still_ends(text: str):
    both = encoder(text)
    ids, truncated = both.tokenize(["! " * n for n in (13, 14, 15, 40)])  # 16 positions: begin, 14 signs, end
    end = ids[0, 14]
    assert truncated.tolist() == [False, False, True, True]
    assert (ids[1:, 15] == end).all() and (ids[1:, 1:15] == ids[0, 1]).all() and ids[0, 15] == 0


@pytest.mark.parametrize("text", TINY)
def test_states_do_not_depend_on_the_other_captions(text: str):
    both = encoder(text)
    ids, _ = both.tokenize(["a red circle", "! " * 40, ""])
    alone = torch.cat([both(row[None]) for row in ids])
    assert torch.allclose(both(ids), alone, atol=1e-5)  # a batch of another size may round another way


@pytest.mark.parametrize("text", TINY)
def test_every_weight_is_trained_with_the_rest(text: str):
    config = ModelConfig(width=32, depth=1, num_heads=2, text=text, text_length=8)
    network = Network(config, vocab_size=11, grid=(2, 2), causal=False).train()
    ids, _ = network.text.tokenize(["a red circle"])
    y, rng = torch.tensor([[1, 2, 3, 4]]), ImageRng([0])
    iterative1.loss(network.decoder, y, network.encode_text(ids), ObjectiveConfig(), rng).total.backward()
    assert not [name for name, p in network.text.named_parameters() if p.grad is None]


@pytest.mark.parametrize("text", TINY)
def test_training_mode_samples_nothing(text: str):
    both = encoder(text).train()
    ids, _ = both.tokenize(["a red circle"])
    assert torch.equal(both(ids), both(ids))


@pytest.mark.parametrize("text", TINY)
def test_frozen_weights_get_no_gradient(text: str):
    frozen = encoder(text, text_frozen=True)
    assert not frozen(frozen.tokenize(["a cat"])[0]).requires_grad
    assert not [p for p in frozen.parameters() if p.requires_grad]


@pytest.mark.parametrize("text", TINY)
def test_tiny_ones_start_from_random_weights(text: str):
    tiny = encoder(text)
    before = {key: value.clone() for key, value in tiny.state_dict().items()}
    load_published(tiny, ModelConfig(text=text))
    assert all(torch.equal(value, before[key]) for key, value in tiny.state_dict().items())


# --- CLIP -------------------------------------------------------------------------------------------------------------


def test_clip_is_causal():
    encoder = tower(0)
    ids, _ = encoder.tokenize(["a small red circle", "a small red square"])
    states = encoder(ids)
    assert torch.allclose(states[0, :4], states[1, :4], atol=1e-6)  # begin, a, small, red
    assert not torch.allclose(states[0, 4], states[1, 4], atol=1e-3)


@pytest.mark.parametrize("form", ["clip.safetensors", "clip.bin", "clip.pt"])
def test_published_forms_load(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    published = tower(1)
    weights = {**published.tower.state_dict(), "visual.conv1.weight": torch.zeros(2, 2), "logit_scale": torch.ones(())}
    ids, _ = published.tokenize(["a cat"])
    if form.endswith("safetensors"):
        save_file(weights, tmp_path / form)
    elif form.endswith("bin"):
        torch.save(weights, tmp_path / form)
    else:  # OpenAI's own file is a TorchScript archive
        torch.jit.trace(published.tower, ids).save(str(tmp_path / form))
        monkeypatch.setattr(clip, "SHA256", manifest.sha256(tmp_path / form))
    loaded = tower(2)
    load_published(loaded, ModelConfig(text="clip_tiny", text_length=16, text_weights=str(tmp_path / form)))
    assert torch.equal(loaded(ids), published(ids))


class Hostile(torch.nn.Module):
    """Saves a tensor to `path` when its archive is loaded."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.weight = str(path), torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return self.weight, self.path, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]):
        self.weight, self.path, self.training = state
        torch.save(self.weight, self.path)


@pytest.mark.parametrize("name", ["clip.pt", "clip.bin"])
def test_torchscript_that_is_not_openais_is_rejected_and_not_run(name: str, tmp_path: Path):
    file, path = tmp_path / name, tmp_path / "written"
    torch.jit.script(Hostile(path)).save(str(file))
    torch.jit.load(str(file))
    assert path.exists()  # loading does run the code
    path.unlink()
    for read in (
        lambda: load_published(tower(0), ModelConfig(text="clip_tiny", text_length=16, text_weights=str(file))),
        lambda: ranking.ClipRanker(weights=str(file)),
    ):
        with pytest.raises(InputError, match=r"is a TorchScript archive.*export its state dict to a \.saf") as error:
            read()
        assert "\n" not in str(error.value) and not path.exists()


def test_openais_file_is_recognized_by_its_whole_digest():
    assert open_clip.get_pretrained_cfg(*clip.PUBLISHED)["url"].split("/")[-2] == clip.SHA256


def test_files_that_do_not_fit_are_one_line(tmp_path: Path):
    save_file({"logit_scale": torch.ones(())}, tmp_path / "other.safetensors")
    (tmp_path / "text.pt").write_text("hello")
    (tmp_path / "empty.bin").write_text("")
    torch.save({}, tmp_path / "nothing.bin")
    torch.save({"logit_scale": 1}, tmp_path / "numbers.bin")
    (tmp_path / "zip.pt").write_bytes(b"PK\x05\x06" + bytes(18))
    (tmp_path / "half.pt").write_bytes(bytes(46) + b"PK\x05\x06" + bytes(4) + b"\1\0\1\0" + b"\x2e\0\0\0" + bytes(6))
    for name, message in (
        ("other.safetensors", "does not hold the text tower"),
        ("text.pt", "no CLIP weights"),
        ("empty.bin", "no CLIP weights"),
        ("none.pt", "no CLIP weights"),
        ("nothing.bin", "no CLIP weights"),
        ("numbers.bin", "no CLIP weights"),
        ("zip.pt", "no CLIP weights"),
        ("half.pt", "no CLIP weights .BadZipFile"),
    ):
        config = ModelConfig(text="clip_tiny", text_length=16, text_weights=str(tmp_path / name))
        with pytest.raises(InputError, match=message) as error:
            load_published(tower(0), config)
        assert "\n" not in str(error.value) and "weights_only" not in str(error.value)
