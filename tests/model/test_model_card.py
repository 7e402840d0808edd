"""The model card agrees with the manifest and the model, in a form that a hub reads."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

import emage
from emage.model import checkpoint, model_card
from emage.utils import manifest

SETTINGS = {"captions": "c0ffee", "seed": 0, "candidates": 4, "sampling": {"steps": 8}}
RECORD = {"file": "captions.txt", "captions": 300, "figures": {"objects_right": 0.93}, "settings": SETTINGS}


@pytest.fixture
def pipe(tiny_model: Path) -> emage.Emage:
    return emage.Emage.from_pretrained(tiny_model, device="cpu")


def card(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def test_the_card_states_what_was_trained_on_what(pipe, tmp_path: Path):
    pipe.metadata |= {
        "step": 3500,
        "data": {"path": "/home/alice/secret/tokens", "rows": 6000, "fingerprint": "f1" * 32},
        "git": "abc123",
        "metrics": {"loss": 3.25, "context_gain": 0.125},
        "seconds": 648,
        "settings": {"optim": {"lr": 0.00045}},
        "license": "mit",
    }
    weights = replace(pipe.config.model, text_weights="/home/alice/secret/ViT-L-14.pt")
    pipe.config = replace(pipe.config, model=weights)
    pipe.save_pretrained(tmp_path / "model")
    text = card(tmp_path / "model").text
    for row in (
        "| data | tokens |",
        "| caption-image pairs | 6000 |",
        f"| fingerprint of the data | {'f1' * 32} |",
        "| steps | 3500 |",
        "| seconds | 648 |",
        "| loss at the end | 3.25 |",
        "| context_gain at the end | 0.125 |",
        "| git commit | abc123 |",
        '"lr": 0.00045',
        "Iterative non-autoregressive model #3 (Sec. 3.4)",
        f"sha256 `{pipe.metadata['tokenizer']['sha256']}`",
        "An image is 64 x 64 pixels: 8 x 8 tokens of 512 codes.",
        "It reads 24 tokens of a caption",
        "## Scores\nNot measured.",
    ):
        assert row in text, row
    for file in ("README.md", "manifest.json", "config.yaml"):
        assert "secret" not in (tmp_path / "model" / file).read_text()
    assert "text_weights: ViT-L-14.pt" in (tmp_path / "model" / "config.yaml").read_text()
    assert card(tmp_path / "model").data.license == "mit"


def test_parameters_are_counted(pipe, tmp_path: Path):
    pipe.save_pretrained(tmp_path / "model")
    text = card(tmp_path / "model").text
    # Embeddings 513 x 64 and 2 x 8 x 64; two blocks; norm 2 x 64; head 64 x 512 + 512. A block: three norms of 2 x 64,
    # qkv 64 x 192 + 192, kv 64 x 128 + 128, three 64 x 64 + 64, GEGLU 64 x 512 + 512 and 256 x 64 + 64.
    block = 3 * 128 + (64 * 192 + 192) + (64 * 128 + 128) + 3 * (64 * 64 + 64) + (64 * 512 + 512) + (256 * 64 + 64)
    decoder = 513 * 64 + 16 * 64 + 2 * block + 128 + 64 * 512 + 512
    assert f"| decoder (2 layers, width 64, 2 heads, geglu, axial positions) | {decoder:,} |" in text
    together = sum(p.numel() for part in (pipe.network, pipe.tokenizer) for p in part.parameters())
    assert f"| all | {together:,} |" in text


def test_the_front_matter_is_what_a_hub_indexes(pipe, tmp_path: Path):
    pipe.save_pretrained(tmp_path / "model")
    data = card(tmp_path / "model").data
    assert (data.pipeline_tag, data.library_name, data.license) == ("text-to-image", "emage", "apache-2.0")
    assert data.tags == ["emage", "iterative3"] and data.eval_results is None
    model_card.add_scores(tmp_path / "model", pipe, RECORD)
    (result,) = card(tmp_path / "model").data.eval_results
    assert (result.task_type, result.dataset_name) == ("text-to-image", "captions.txt")
    assert (result.metric_type, result.metric_value, result.metric_args) == ("objects_right", 0.93, SETTINGS)


def test_scores_add_up_and_the_checkpoint_stays_the_same(pipe, tmp_path: Path):
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    before = manifest.read_json(folder / "manifest.json")
    others = SETTINGS | {"candidates": 1}
    for record in (
        RECORD,
        RECORD | {"figures": {"fid": 12.5}},  # the same settings, another metric
        RECORD | {"figures": {"objects_right": 0.5}, "settings": others},
        RECORD | {"figures": {"objects_right": 0.25}, "settings": others},  # run again: replaces
    ):
        model_card.add_scores(folder, pipe, record)
    _, metadata = checkpoint.check(folder)
    scores = metadata.pop("scores")
    assert metadata == before
    assert [record["figures"] for record in scores.values()] == [
        {"objects_right": 0.93, "fid": 12.5},
        {"objects_right": 0.25},
    ]
    text = card(folder).text
    assert "300 captions of `captions.txt`" in text and json.dumps(SETTINGS, indent=2) in text
    assert [row in text for row in ("0.9300 |", "| fid | 12.5000 |", "0.2500 |", "0.5000 |")] == [True] * 3 + [False]


def test_scores_are_saved_with_the_model(pipe, tmp_path: Path):
    pipe.save_pretrained(tmp_path / "model")
    model_card.add_scores(tmp_path / "model", pipe, RECORD)
    emage.Emage.from_pretrained(tmp_path / "model", device="cpu").save_pretrained(tmp_path / "copy")
    assert "| objects_right | 0.9300 |" in card(tmp_path / "copy").text


def test_images_of_the_prompts_are_on_the_card_and_the_prompts_are_recorded(pipe, tmp_path: Path):
    pipe.save_pretrained(tmp_path / "plain")
    assert not (tmp_path / "plain" / "samples.png").exists() and "samples.png" not in card(tmp_path / "plain").text
    pipe.save_pretrained(tmp_path / "model", prompts=["a dog", "a cat"])
    again = emage.Emage.from_pretrained(tmp_path / "model", device="cpu")
    again.save_pretrained(tmp_path / "copy")
    assert "![sample images](samples.png)" in card(tmp_path / "copy").text
    assert (tmp_path / "copy" / "samples.png").read_bytes() == (tmp_path / "model" / "samples.png").read_bytes()
    assert 'pipe.generate(["a dog"], seed=7)' in card(tmp_path / "copy").text
