"""Negative prompts: guidance leads away from them in place of the empty caption, for each image by itself."""

import warnings
from pathlib import Path

import pytest
from PIL import Image
from same_images import same

import emage
from emage.utils.errors import InputError

PROMPT, OTHER = "a small red circle", "a large blue square"
STRONG = {"guidance": 20.0, "steps": 6}


@pytest.fixture
def pipe(tiny_model: Path) -> emage.Emage:
    return emage.Emage.from_pretrained(str(tiny_model), device="cpu")


def test_it_takes_the_place_of_the_empty_caption(pipe: emage.Emage, monkeypatch: pytest.MonkeyPatch) -> None:
    (negative,) = pipe.generate(PROMPT, negative_prompt=OTHER, seed=7, **STRONG)
    assert not same(negative, pipe.generate(PROMPT, seed=7, **STRONG)[0])
    encode = pipe.runner.encode_text
    monkeypatch.setattr(pipe.runner, "encode_text", lambda texts: encode([text or OTHER for text in texts]))
    assert same(negative, pipe.generate(PROMPT, seed=7, **STRONG)[0])


def test_an_empty_one_changes_nothing(pipe: emage.Emage) -> None:
    plain = pipe.generate([PROMPT, OTHER], seed=7, **STRONG)
    for negative in ("", None, ["", ""]):
        images = pipe.generate([PROMPT, OTHER], negative_prompt=negative, seed=7, **STRONG)
        assert all(same(a, b) for a, b in zip(images, plain, strict=True))


def test_the_prompt_itself_cancels_guidance(pipe: emage.Emage) -> None:
    unguided = pipe.generate(PROMPT, seed=7, steps=6)[0]
    assert same(pipe.generate(PROMPT, negative_prompt=PROMPT, seed=7, **STRONG)[0], unguided)  # u + s (u - u) is u


def test_each_image_of_a_batch_has_its_own(pipe: emage.Emage) -> None:
    negatives = [OTHER, "", "a green cross"]
    together = pipe.generate([PROMPT] * 3, negative_prompt=negatives, seed=[1, 2, 3], **STRONG)
    for image, negative, seed in zip(together, negatives, (1, 2, 3), strict=True):
        assert same(image, pipe.generate(PROMPT, negative_prompt=negative, seed=seed, **STRONG)[0])


def test_stream_inpaint_and_candidates_read_it(pipe: emage.Emage) -> None:
    (image,) = pipe.generate(PROMPT, negative_prompt=OTHER, seed=7, **STRONG)
    *_, last = pipe.stream(PROMPT, negative_prompt=OTHER, seed=7, **STRONG)
    assert same(last, image)
    ((first, _), _) = pipe.candidates(PROMPT, negative_prompt=OTHER, seed=7, candidates=2, **STRONG)[0]
    assert same(first, image)
    given, white = Image.new("RGB", (64, 64), "red"), Image.new("L", (64, 64), 255)
    edits = [pipe.inpaint(given, white, PROMPT, negative_prompt=text, seed=7, **STRONG) for text in ("", OTHER)]
    assert not same(*edits) and same(edits[1], image)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 1.0])
def test_without_guidance_above_one_it_is_not_read_and_a_warning_says_so(pipe: emage.Emage, guidance: float) -> None:
    plain = pipe.generate(PROMPT, seed=7, steps=2, guidance=guidance)[0]
    with pytest.warns(UserWarning, match=f"negative_prompt has no effect: guidance={guidance:g} is not above 1"):
        (image,) = pipe.generate(PROMPT, negative_prompt=OTHER, seed=7, steps=2, guidance=guidance)
    assert same(image, plain)


def test_one_that_is_too_long_is_told(pipe: emage.Emage) -> None:
    with pytest.warns(UserWarning, match="1 of 1 negative prompts is longer than the text encoder's 24 positions"):
        pipe.generate([PROMPT] * 2, negative_prompt=["a dog " * 40, ""], steps=1, guidance=2.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe.generate(PROMPT, negative_prompt=OTHER, steps=1, guidance=2.0)


@pytest.mark.parametrize(
    ("negative", "message"),
    [
        (["a", "b"], "2 negative prompts for 1 prompts: pass one, or one per prompt"),
        ([], "0 negative prompts for 1 prompts"),
        (["a", 3], "negative_prompt must be text, or one text per prompt, not int"),
    ],
)
def test_another_number_or_type_is_an_input_error(pipe: emage.Emage, negative: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        pipe.generate(PROMPT, negative_prompt=negative, guidance=2.0)
