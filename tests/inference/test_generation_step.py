"""GenerationStep: a batch of images after a decoding step, and the old names of its methods."""

from pathlib import Path

import pytest

import emage
from emage.methods.masking import num_kept


@pytest.fixture(scope="module")
def pipe(tiny_model: Path) -> "emage.Emage":
    return emage.Emage.from_pretrained(str(tiny_model), device="cpu")


def test_steps_are_counted_and_follow_the_schedule(pipe):
    settings = pipe.settings(steps=4)
    steps = list(pipe.generation_steps(["a cat", "a dog"], [1, 2], settings))
    assert [(step.step, step.num_steps) for step in steps] == [(t, 4) for t in (1, 2, 3, 4)]
    for step in steps:
        assert step.fraction_unmasked() == [num_kept(step.step, 4, 64, settings.schedule) / 64] * 2
    assert len(steps[0].images()) == 2 and len(steps[0].images(rows=[1])) == 1


def test_old_names_work_for_one_release(pipe):
    settings = pipe.settings(steps=1)
    with pytest.warns(DeprecationWarning, match=r"\.passes is now \.generation_steps"):
        (step,) = pipe.passes(["a cat"], [1], settings)
    with pytest.warns(DeprecationWarning, match=r"\.pictures is now \.images"):
        assert len(step.pictures()) == 1
    with pytest.warns(DeprecationWarning, match=r"\.known is now \.fraction_unmasked"):
        assert step.known() == [1.0]
    with pytest.warns(DeprecationWarning, match=r"\.facts is now \.metadata"):
        assert pipe.facts is pipe.metadata
    with pytest.warns(DeprecationWarning, match=r"\.pictures is now \.runner\.decode_images"):
        assert len(pipe.pictures(step.tokens.guess)) == 1
    with pytest.warns(DeprecationWarning, match=r"\.drawing is now \.runner"):
        runner = pipe.drawing
    with pytest.warns(DeprecationWarning, match=r"\.records is now \.use_cuda_graphs"):
        runner.records = False
    assert not pipe.runner.use_cuda_graphs
    pipe.runner.use_cuda_graphs = True
