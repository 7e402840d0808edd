import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from same_images import same

import emage
from emage import tokenizers
from emage.config import SamplingConfig
from emage.inference import ranking
from emage.inference.guidance import GuidedDecoder
from emage.methods.masking import MASK
from emage.model import checkpoint, device_support
from emage.tokenizers import weight_files as weights
from emage.utils import manifest
from emage.utils.errors import InputError

WHITE = Image.new("L", (64, 64), 255)
PROMPTS = ["a small red circle above a large blue square", "a cat", "", "a dog " * 40]


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> "emage.Emage":
    return emage.Emage.from_pretrained(str(tiny_model), device="cpu")


def test_images_have_the_models_size(pipe):
    images = pipe.generate(PROMPTS, seed=7)
    assert [image.size for image in images] == [(64, 64)] * 4 and images[0].mode == "RGB"


def test_truncated_prompts_give_one_warning_per_call(pipe):
    calls = (
        ("2 of 5 prompts are", lambda: pipe.generate([*PROMPTS, PROMPTS[3]], steps=1, batch_size=1, candidates=2)),
        ("1 of 1 prompts is", lambda: list(pipe.stream(PROMPTS[3], steps=2))),
        ("1 of 1 prompts is", lambda: pipe.inpaint(Image.new("RGB", (64, 64)), WHITE, PROMPTS[3], steps=1)),
    )
    for start, call in calls:
        with pytest.warns(UserWarning) as warned:
            call()
        (line,) = (str(warning.message) for warning in warned)
        assert line == f"{start} longer than the text encoder's 24 positions; the rest was not read"


def test_prompts_that_fit_give_no_warning(pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.generate(PROMPTS[:3], steps=1, guidance=2.0)


@pytest.mark.parametrize("order", ["confidence", "random", "halton"])
def test_same_prompt_seed_and_settings_give_the_same_pixels_in_any_batch(pipe, order: str):
    among = pipe.generate(PROMPTS * 2, seed=[7, 1, 2, 3, 4, 5, 6, 7], order=order)
    for i, seed in ((0, 7), (2, 2), (7, 7)):
        assert same(pipe.generate((PROMPTS * 2)[i], seed=seed, order=order)[0], among[i])
    backwards = pipe.generate(PROMPTS[::-1], seed=7, order=order, batch_size=3)
    assert same(backwards[-1], among[0])
    assert not same(pipe.generate(PROMPTS[0], seed=8, order=order)[0], among[0])


def test_the_first_candidate_is_the_single_image_and_the_best_is_returned(pipe):
    (group,) = pipe.candidates(PROMPTS[0], seed=7, candidates=4)
    assert same(group[0][0], pipe.generate(PROMPTS[0], seed=7)[0])
    assert len({score for _, score in group}) == 4
    best = max(group, key=lambda pair: pair[1])[0]
    assert same(pipe.generate(PROMPTS[0], seed=7, candidates=4)[0], best)


def test_the_text_is_encoded_once_for_all_candidates_of_a_batch(pipe):
    read: list[int] = []
    hook = pipe.network.text.tower.register_forward_hook(lambda _, inputs, __: read.append(len(inputs[0])))
    pipe.candidates(["a red circle", "a blue square"], candidates=4, batch_size=8)
    hook.remove()
    assert read == [2]


def test_the_stream_ends_in_the_image(pipe):
    frames = list(pipe.stream(PROMPTS[0], seed=7, steps=5))
    assert len(frames) == 5 and same(frames[-1], pipe.generate(PROMPTS[0], seed=7, steps=5)[0])


def test_inpainting_leaves_the_rest_as_its_tokens_decode(pipe, monkeypatch):
    image = Image.effect_noise((100, 80), 90).convert("RGB")  # its middle 80 x 80 are brought to 64 x 64
    mask = Image.new("L", (100, 80))
    mask.paste(255, (0, 0, 35, 80))  # 25 of those 80: the two leftmost columns of cells and half of the third
    edited = pipe.inpaint(image, mask, PROMPTS[0], seed=7)
    kept = pipe.tokenizer.encode(_pixels(image.resize((80, 64), Image.Resampling.LANCZOS).crop((8, 0, 72, 64))))
    seen: list[torch.Tensor] = []
    paint = pipe.tokenizer.decode_grid
    monkeypatch.setattr(pipe.tokenizer, "decode_grid", lambda ids: seen.append(ids.flatten(1)) or paint(ids))
    assert same(pipe.inpaint(image, mask, PROMPTS[0], seed=7), edited) and edited.size == (64, 64)
    changed = (seen[0] != kept).view(8, 8)
    assert not changed[:, 3:].any() and changed[:, 2].any() and changed[:, 0].any()
    with pytest.raises(InputError, match="black everywhere"):
        pipe.inpaint(image, Image.new("L", (100, 80)), PROMPTS[0])
    with pytest.raises(InputError, match="the mask is 64x64, the image 100x80"):
        pipe.inpaint(image, Image.new("L", (64, 64)), PROMPTS[0])


def test_inpainting_sees_a_thin_stroke_in_a_large_image(pipe):
    image, mask = Image.new("RGB", (1024, 1024)), Image.new("L", (1024, 1024))
    mask.paste(255, (500, 0, 501, 1024))
    assert pipe.inpaint(image, mask, PROMPTS[0]).size == (64, 64)


def _pixels(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def test_guidance_changes_the_image_and_zero_does_not(pipe):
    plain = pipe.generate(PROMPTS[0], seed=7)[0]
    assert same(pipe.generate(PROMPTS[0], seed=7, guidance=0.0)[0], plain)
    assert same(pipe.generate(PROMPTS[0], seed=7, guidance=1.0)[0], plain)  # u + 1 (c - u) is c
    assert not same(pipe.generate(PROMPTS[0], seed=7, guidance=30.0)[0], plain)


@pytest.mark.parametrize(("schedule", "scales"), [("constant", [3, 3, 3, 3]), ("linear", [1.5, 2, 2.5, 3])])
def test_guidance_is_u_plus_s_times_c_minus_u(schedule: str, scales: list[float]):
    def decoder(y, context, cache):
        return torch.full((1, 1, 1), 7.0 if context == "caption" else 5.0)

    settings = SamplingConfig(guidance=3.0, guidance_schedule=schedule)
    guided = GuidedDecoder(decoder, "empty", settings, num_steps=4)
    assert [guided(None, "caption").item() for _ in range(4)] == [5 + 2 * scale for scale in scales]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stepz": 3}, "unknown sampling setting 'stepz'; did you mean steps?"),
        ({"steps": 0}, "steps=0: must be a whole number of at least 1"),
        ({"steps": 65}, "steps=65: must be at most 64"),
        ({"steps": 4.5}, "steps=4.5: must be a whole number"),
        ({"remask": 1.0}, "remask=1.0: must be a number from 0 to 0.99"),
        ({"guidance_schedule": "cubic"}, "guidance_schedule=cubic: must be one of constant, linear"),
        ({"order": "spiral"}, "order=spiral: must be one of confidence, random, halton"),
        ({"temperature": float("nan")}, "temperature=nan: must be a number from 0 to 100"),
        ({"candidates": 0}, "candidates=0: must be a whole number of at least 1"),
        ({"seed": [1, 2]}, "2 seeds for 1 prompts"),
        ({"seed": -1}, "seed must be a whole number from 0"),
        ({"seed": 2**65}, "seed must be a whole number from 0"),
        ({"seed": 1.5}, "seed must be a whole number from 0"),
        ({"seed": None}, "seed must be a whole number from 0"),
        ({"batch_size": 0}, "batch_size=0: must be a whole number of at least 1"),
        ({"rank": "clp"}, "rank=clp: must be one of none, likelihood, clip"),
    ],
)
def test_settings_that_make_no_sense_are_rejected(pipe, settings: dict, message: str):
    with pytest.raises(InputError, match=message.replace("?", r"\?").replace("..", r"\.\.")):
        pipe.generate("a cat", **settings)


def test_a_stream_rejects_settings_before_its_first_image(pipe):
    with pytest.raises(InputError, match="unknown sampling setting"):
        pipe.stream("a cat", stepz=3)


def test_numpy_seeds_are_seeds(pipe):
    assert same(pipe.generate("a cat", seed=np.int64(3))[0], pipe.generate("a cat", seed=np.array([3]))[0])


def test_guidance_pushes_away_from_the_empty_caption(pipe, monkeypatch):
    read: list[list[str]] = []
    tokenize = pipe.network.text.tokenize
    monkeypatch.setattr(
        pipe.network.text, "tokenize", lambda captions: read.append(list(captions)) or tokenize(captions)
    )
    pipe.generate(["a cat", "a dog"], guidance=2.0)
    assert read[-1] == [""] and ["a cat", "a dog"] in read


@pytest.mark.parametrize(("dtype", "bound"), [("bfloat16", 0.03), ("float16", 0.005)])
def test_half_precision_stays_near_float32(tiny_model: Path, pipe, dtype: str, bound: float):
    half = emage.Emage.from_pretrained(str(tiny_model), device="cpu", dtype=dtype)
    y = torch.arange(64)[None].masked_fill(torch.arange(64)[None] % 2 == 0, MASK)
    with torch.no_grad():
        exact, near = (
            p.network.decoder(y, p.network.encode_text(p.network.text.tokenize(["a cat"])[0])).float().log_softmax(-1)
            for p in (pipe, half)
        )
    assert 0 < (exact - near).abs().max() < bound


def test_save_and_load_generate_the_same(pipe, tmp_path: Path):
    pipe.save_pretrained(tmp_path / "copy")
    again = emage.Emage.from_pretrained(str(tmp_path / "copy"), device="cpu")
    assert same(again.generate("a cat", seed=3)[0], pipe.generate("a cat", seed=3)[0])
    assert "iterative3" in (tmp_path / "copy" / "README.md").read_text()
    assert not list((tmp_path / "copy").glob("*.pt")) and not list((tmp_path / "copy").glob("*.pkl"))


@pytest.mark.chaos
@pytest.mark.parametrize("method", ["iterative1", "autoregressive"])
def test_compiled_it_generates_the_same_images_but_for_rounding(pipe, method: str):
    config = replace(pipe.config, method=method)
    causal = method == "autoregressive"
    network = pipe.network if not causal else checkpoint.build(config)
    plain = emage.Emage(network, pipe.tokenizer, config).generate(PROMPTS[:2], seed=[1, 2], steps=4)
    compiled = emage.Emage(network, pipe.tokenizer, config).compile().generate(PROMPTS[:2], seed=[1, 2], steps=4)
    assert np.mean([np.asarray(a) != np.asarray(b) for a, b in zip(plain, compiled, strict=True)]) < 0.1


def test_tf32_is_rejected_on_a_cpu_and_slow_bfloat16_gives_a_warning(tiny_model: Path, monkeypatch):
    with pytest.raises(InputError, match="dtype=tf32: a CPU has no TF32; use dtype=float32"):
        emage.Emage.from_pretrained(str(tiny_model), device="cpu", dtype="tf32")
    monkeypatch.setattr(device_support, "has_bfloat16_units", lambda: False)
    with pytest.warns(UserWarning, match="no bfloat16 units .* dtype=float32 is faster"):
        emage.Emage.from_pretrained(str(tiny_model), device="cpu", dtype="bfloat16")


def test_bfloat16_generates_and_keeps_the_tokenizer_in_float32(tiny_model: Path):
    half = emage.Emage.from_pretrained(str(tiny_model), device="cpu", dtype="bfloat16")
    assert half.network.decoder.head.weight.dtype == torch.bfloat16
    assert all(p.dtype == torch.float32 for p in half.tokenizer.parameters())
    assert half.generate("a cat")[0].size == (64, 64)


def test_a_folder_that_is_not_a_checkpoint_is_rejected(tiny_model: Path, tmp_path: Path):
    with pytest.raises(InputError, match="neither a checkpoint folder nor a hub id"):
        emage.Emage.from_pretrained(str(tmp_path / "nothing" / "here"))
    with pytest.raises(InputError, match="is not a checkpoint folder"):
        emage.Emage.from_pretrained(str(tmp_path))
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="already exists and is not a checkpoint"):
        emage.Emage.from_pretrained(str(tiny_model), device="cpu").save_pretrained(tmp_path)
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(InputError, match=r"damaged checkpoint: model\.safetensors"):
        checkpoint.load(broken)


def test_another_tokenizer_is_rejected(tiny_model: Path, tmp_path: Path):
    swapped = shutil.copytree(tiny_model, tmp_path / "swapped")
    record = json.loads((swapped / "manifest.json").read_text())
    record["files"]["tokenizer.safetensors"] = "0" * 64
    (swapped / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="not the one this model was trained with"):
        checkpoint.load(swapped)


def accept_tokenizer(folder: Path) -> None:
    """Update the `files` entry to the present tokenizer file."""
    record = json.loads((folder / "manifest.json").read_text())
    record["files"]["tokenizer.safetensors"] = manifest.sha256(folder / "tokenizer.safetensors")
    (folder / "manifest.json").write_text(json.dumps(record))


@pytest.mark.parametrize(("name", "change"), [("vqgan-demo-f8-512", 1e-3), ("another", 0.0)])
def test_another_tokenizer_is_rejected_even_if_the_file_list_fits(name, change, tiny_model: Path, tmp_path: Path):
    swapped = shutil.copytree(tiny_model, tmp_path / "swapped")
    tokenizer = tokenizers.load("vqgan-demo-f8-512")
    tokenizer.name = name
    tokenizer.quantize.embedding.weight.data[7, 3] += change
    tokenizers.save(tokenizer, swapped / "tokenizer.safetensors")
    accept_tokenizer(swapped)
    with pytest.raises(
        InputError, match=rf"its tokenizer is {name} \(\w{{12}}\), but manifest\.json names vqgan-demo-f8-512"
    ):
        checkpoint.load(swapped)


def test_the_same_tokenizer_saved_again_is_accepted_and_one_without_a_name_is_not(tiny_model: Path, tmp_path: Path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    tokenizers.save(tokenizers.load("vqgan-demo-f8-512"), copy / "tokenizer.safetensors")
    accept_tokenizer(copy)
    assert checkpoint.load(copy)[1].sha256 == checkpoint.load(tiny_model)[1].sha256
    weights.write(tokenizers.load("vqgan-demo-f8-512").state_dict(), copy / "tokenizer.safetensors")
    accept_tokenizer(copy)
    with pytest.raises(InputError, match="does not name the tokenizer that it holds"):
        checkpoint.load(copy)


def test_ranking_by_clip_without_weights_reports_what_is_missing(tmp_path: Path):
    with pytest.raises(InputError, match="rank=likelihood"):
        ranking.ClipRanker(weights=str(tmp_path / "none.pt"))
