"""The model that comes with the package."""

from pathlib import Path

import pytest
import torch

import emage
from emage import tokenizers
from emage.data import shapes
from emage.evaluation.metrics.shapes_accuracy import measure
from emage.model import checkpoint, hub
from emage.utils.errors import InputError

FOLDER = hub.SHIPPED / "demo"


@pytest.fixture(scope="module")
def pipe() -> emage.Emage:
    return emage.Emage.from_pretrained("demo", device="cpu")


def test_it_generates_what_held_out_captions_describe(pipe: emage.Emage):
    """It was correct for 93.2 % of 1,000 captions when it was shipped; the bound allows for chance in 40 captions."""
    captions = [scene.caption for scene in shapes.sample_held_out_scenes(40, seed=77)]
    scores = dict(measure(pipe.generate(captions, batch_size=40), captions))
    assert scores["objects_right"] >= 0.8


def test_its_card_states_its_scores_and_its_training(pipe: emage.Emage):
    (record,) = pipe.metadata["scores"].values()
    assert record["captions"] == 1_000 and record["figures"]["objects_right"] >= 0.9
    assert pipe.metadata["step"] == 12_000 and len(pipe.metadata["git"]) == 40
    assert "objects_right | 0.9" in (FOLDER / "README.md").read_text()


def test_it_is_small_and_its_weights_are_float32_again(pipe: emage.Emage):
    assert (FOLDER / "model.safetensors").stat().st_size <= 10e6
    assert {p.dtype for p in pipe.network.parameters()} == {torch.float32}
    assert pipe.tokenizer.sha256 == tokenizers.load(tokenizers.DEMO).sha256


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub.find("demo") == FOLDER
    (tmp_path / "demo").mkdir()
    with pytest.raises(InputError, match="demo is not a checkpoint folder"):
        emage.Emage.from_pretrained("demo", device="cpu")
    with pytest.raises(InputError, match=r"nor a hub id .*; shipped: demo"):
        hub.find("demos")


def test_half_of_the_file_is_the_same_model_rounded(tiny_model: Path, tmp_path: Path):
    whole = emage.Emage.from_pretrained(tiny_model, device="cpu")
    whole.save_pretrained(tmp_path / "half", prompts=[], dtype="float16")
    network, *_ = checkpoint.load(tmp_path / "half")
    for (name, before), after in zip(whole.network.named_parameters(), network.parameters(), strict=True):
        assert torch.equal(before.half().float(), after), name
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (tiny_model, tmp_path / "half")]
    assert sizes[1] < 0.51 * sizes[0]
