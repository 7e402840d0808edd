"""The name that a message suggests: near, or none."""

import pytest

from emage.config import ServeConfig, TrainConfig
from emage.config.fields import leaves, nearest, nearest_key
from emage.serving.http.parameters.schema import ImageRequest

PARAMETERS = list(ImageRequest.model_fields)


def test_the_nearest_name_whatever_its_case() -> None:
    assert nearest("URL", ["caption", "url"]) == "; did you mean url?"
    assert nearest("similarity", ["Simlarity", "NSFW"]) == "; did you mean Simlarity?"
    assert nearest("md5", ["url", "caption"]) == ""
    assert nearest("shcedule", PARAMETERS) == "; did you mean schedule?"
    assert nearest("promt", PARAMETERS) == "; did you mean prompt?"


@pytest.mark.parametrize("word", ["mask", "loras", "x", "width", "height", "cfg_scale", "watermark", ""])
def test_a_word_that_is_no_typing_error_gets_no_suggestion(word: str) -> None:
    assert nearest(word, PARAMETERS) == ""


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [
        ("lr", "optim.lr"),
        ("LR", "optim.lr"),
        ("training.lr", "optim.lr"),
        ("optm.lr", "optim.lr"),
        ("batchsize", "optim.batch_size"),
        ("output", "run.output"),
        ("steps", "optim.steps or sampling.steps"),
        ("optim.batch-size", "optim.batch_size"),
    ],
)
def test_a_key_without_its_section_is_found(key: str, suggestion: str) -> None:
    assert nearest_key(key, list(leaves(TrainConfig))) == f"; did you mean {suggestion}?"


@pytest.mark.parametrize("key", ["moderation", "optim.momentum", "a.b.c", "z"])
def test_a_key_that_is_not_near_gets_no_suggestion(key: str) -> None:
    assert nearest_key(key, list(leaves(TrainConfig))) == ""
    assert nearest_key(key, list(leaves(ServeConfig))) == ""
