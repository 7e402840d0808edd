"""CLIP models by name, tag and file, and the score of one that did not rank the images; tiny, random weights."""

import json
from pathlib import Path
from types import SimpleNamespace

import open_clip
import pytest
import torch
from clip_files import CONFIG as TINY
from clip_files import network
from PIL import Image
from safetensors.torch import save_file

from emage.evaluation.metrics.clip_score import ClipScore
from emage.inference.ranking import ClipRanker
from emage.utils import manifest
from emage.utils.errors import InputError

COLOURS = ["red", "green", "blue", "white", "black", "orange"]
IMAGES = [Image.new("RGB", (40, 40), colour) for colour in COLOURS]
CAPTIONS = [f"a {colour} square" for colour in COLOURS]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model's config, and the weights of two: `mine` as .safetensors and .pt, `other` as .safetensors."""
    place = tmp_path_factory.mktemp("clip")
    (place / "tiny.json").write_text(json.dumps(TINY))
    mine = network(seed=6)  # some of its cosines are negative
    save_file(mine.state_dict(), place / "mine.safetensors")
    torch.save(mine.state_dict(), place / "mine.pt")
    save_file(network(seed=2).state_dict(), place / "other.safetensors")
    files = {path.name.replace(".", "_"): str(path) for path in place.iterdir()}
    return SimpleNamespace(place=place, network=mine, **files)


@torch.no_grad()
def expected(clip: open_clip.CLIP, **preprocess) -> torch.Tensor:
    transform = open_clip.image_transform(32, is_train=False, **preprocess)
    images = clip.encode_image(torch.stack([transform(image) for image in IMAGES]), normalize=True)
    texts = clip.encode_text(open_clip.get_tokenizer("ViT-B-32")(CAPTIONS), normalize=True)
    return (images * texts).sum(1)


@pytest.mark.parametrize("form", ["mine_safetensors", "mine_pt"])
def test_any_model_ranks_by_open_clips_own_cosines(form, tiny, caplog):
    ranker = ClipRanker(getattr(tiny, form), model=tiny.tiny_json)
    torch.testing.assert_close(ranker.score(IMAGES, CAPTIONS), expected(tiny.network))
    assert not caplog.records  # open_clip's own "initialized randomly" would be wrong here
    assert ranker.metadata["model"] == "tiny.json" and ranker.metadata["weights"] == Path(getattr(tiny, form)).name
    assert ranker.metadata["weights_sha256"] == ClipRanker(tiny.mine_pt, tiny.tiny_json).metadata["weights_sha256"]


def test_a_config_may_define_how_images_are_prepared(tiny, tmp_path):
    grey = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "whole.json").write_text(json.dumps({"model_cfg": TINY, "preprocess_cfg": grey}))
    found = ClipRanker(tiny.mine_pt, model=str(tmp_path / "whole.json")).score(IMAGES, CAPTIONS)
    torch.testing.assert_close(found, expected(tiny.network, **{key: tuple(value) for key, value in grey.items()}))
    assert not torch.allclose(found, expected(tiny.network))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_cfg", "hf_model_name", "somebody/text"),
        ("text_cfg", "hf_tokenizer_name", "somebody/words"),
        ("vision_cfg", "timm_model_name", "hf-hub:somebody/images"),
        ("vision_cfg", "timm_model_name", "hf_hub:images"),
        ("vision_cfg", "timm_model_name", "local-dir:/elsewhere"),
    ],
)
@pytest.mark.parametrize("whole", [False, True])
def test_a_config_downloads_nothing(part, key, value, whole, tiny, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise AssertionError("open_clip was asked")

    monkeypatch.setattr(open_clip, "create_model_and_transforms", fail)
    config = {**TINY, part: {**TINY[part], key: value}}
    (tmp_path / "t.json").write_text(json.dumps({"model_cfg": config} if whole else config))
    with pytest.raises(InputError, match=rf"t\.json: {key}='{value}' would be downloaded") as error:
        ClipRanker(tiny.mine_pt, model=str(tmp_path / "t.json"))
    assert "\n" not in str(error.value)


def test_the_score_is_of_each_pair_without_its_negative_half(tiny):
    judge = ClipScore(tiny.mine_pt, tiny.tiny_json)
    cosines = expected(tiny.network)
    assert cosines.min() < 0 < cosines.max()
    mean, scores = judge.score(iter(IMAGES), iter(CAPTIONS), batch_size=4)
    torch.testing.assert_close(scores, 100 * cosines.clamp(min=0), rtol=1e-4, atol=1e-4)
    assert mean == pytest.approx(float(scores.mean())) and scores.shape == (6,)
    assert "100 max(cos, 0)" in judge.metadata["mode"] and judge.metadata["weights"] == "mine.pt"


def test_no_images_to_score(tiny):
    with pytest.raises(InputError, match="clip_score: there are no images"):
        ClipScore(tiny.mine_pt, tiny.tiny_json).score([], [])


def test_a_clip_does_not_score_what_it_ranked(tiny):
    ranker = ClipRanker(tiny.mine_pt, model=tiny.tiny_json)
    with pytest.raises(
        InputError, match=r"a CLIP cannot score what it ranked: tiny.json \(mine.safetensors\) is the ranker"
    ):
        ClipScore(tiny.mine_safetensors, tiny.tiny_json, ranker=ranker.metadata)  # another file of the same weights
    other = ClipScore(tiny.other_safetensors, tiny.tiny_json, ranker=ranker.metadata)
    assert other.metadata["weights"] == "other.safetensors"


@pytest.fixture
def published(serve_folder, tiny, tmp_path, monkeypatch):
    """Register a tiny model with open_clip, and two of its tags on a local server; downloads go into an empty home."""
    folder, url = serve_folder
    for name in ("mine", "other"):
        (folder / f"{name}.safetensors").write_bytes((tiny.place / f"{name}.safetensors").read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-16", TINY)
    grey = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    tags = {"laion_grey": {"url": f"{url}/mine.safetensors", **grey}, "quick": {"url": f"{url}/other.safetensors"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "Tiny-16", tags)
    return SimpleNamespace(folder=folder, tags=tags, grey=grey)


def test_a_tag_is_fetched_once_and_has_its_own_preprocessing(published, tiny):
    ranker = ClipRanker("laion_grey", model="Tiny-16")
    (published.folder / "mine.safetensors").unlink()
    again = ClipRanker(None, model="Tiny-16")  # it has no tag "openai": the first
    assert ranker.metadata == again.metadata and ranker.metadata["weights"] == "laion_grey"
    torch.testing.assert_close(ranker.score(IMAGES, CAPTIONS), expected(tiny.network, **published.grey))


def test_without_weights_openais_are_used_if_published(published):
    published.tags["openai"] = published.tags["quick"]
    assert ClipRanker(None, model="Tiny-16").metadata["weights"] == "openai"


def test_torchscript_is_run_only_if_openai_published_it(published, tiny, tmp_path):
    """OpenAI names a file's sha256 in its URL; such an archive holds code."""
    tiny.network.requires_grad_(False)
    archive = torch.jit.trace(tiny.network, (torch.zeros(1, 3, 32, 32), torch.zeros(1, 77, dtype=torch.long)))
    archive.save(str(tmp_path / "tiny.pt"))
    with pytest.raises(InputError, match=r"is a TorchScript archive.*not one of OpenAI's own"):
        ClipRanker(str(tmp_path / "tiny.pt"), model="Tiny-16")
    digest = manifest.sha256(tmp_path / "tiny.pt")
    published.tags["openai"] = {"url": f"http://127.0.0.1:1/{digest}/tiny.pt"}
    ranker = ClipRanker(str(tmp_path / "tiny.pt"), model="Tiny-16")
    torch.testing.assert_close(ranker.score(IMAGES, CAPTIONS), expected(tiny.network))


def test_a_tag_determines_the_activation(published):
    plain = ClipRanker("quick", model="Tiny-16").score(IMAGES, CAPTIONS)
    published.tags["quick"]["quick_gelu"] = True
    assert not torch.allclose(ClipRanker("quick", model="Tiny-16").score(IMAGES, CAPTIONS), plain)


def test_the_error_for_a_tag_that_cannot_be_fetched_names_its_url(published):
    (published.folder / "other.safetensors").unlink()
    with pytest.raises(
        InputError, match=r"no CLIP weights .*fetch http.*other.safetensors on a machine.*\(rank_weights=FILE\)"
    ):
        ClipRanker("quick", model="Tiny-16")


@pytest.mark.parametrize(
    ("weights", "model", "message"),
    [
        (None, "ViT-L-15", r"^rank=clip: unknown CLIP model 'ViT-L-15'; did you mean ViT-L-1[46]"),
        ("opnai", "ViT-B-32", r"rank_weights=opnai: no such file, and ViT-B-32 has no .*; did you mean openai\?"),
        ("nowhere.pt", "ViT-B-32", r"no CLIP weights .*pass the file \(rank_weights=FILE\)"),
        (None, "tiny", r"tiny.json has no published weights: pass rank_weights=FILE"),
        ("mine", "other.json", r"open_clip cannot build this model"),
        ("mine", "wrong.json", r"mine.safetensors does not fit wrong.json: .*size mismatch"),
        ("mine", "deep.json", r"mine.safetensors does not fit deep.json: it has no transformer.resblocks.2"),
    ],
)
def test_weights_and_models_that_do_not_match_are_one_line(weights, model, message, tiny):
    (tiny.place / "other.json").write_text('{"embed_dim": 3}')
    text = TINY["text_cfg"]
    (tiny.place / "wrong.json").write_text(json.dumps({**TINY, "text_cfg": {**text, "width": 32}}))
    (tiny.place / "deep.json").write_text(json.dumps({**TINY, "text_cfg": {**text, "layers": 3}}))
    model = str(tiny.place / model) if model.endswith("json") else tiny.tiny_json if model == "tiny" else model
    weights = tiny.mine_safetensors if weights == "mine" else weights
    with pytest.raises(InputError, match=message) as error:
        ClipRanker(weights, model=model)
    assert "\n" not in str(error.value) and "rank=likelihood" in str(error.value)


def test_errors_name_the_settings_of_the_scorer(tiny):
    with pytest.raises(InputError, match=r"^clip_score: .*pass clip_score_weights=FILE$"):
        ClipScore(None, tiny.tiny_json)
