"""Values that nobody means: a config or one line, never another exception."""

from contextlib import suppress

import pytest

from emage.config import TrainConfig, parse
from emage.config.fields import leaves
from emage.utils.errors import InputError

ODD = ("1" + "0" * 400, "-.inf", "a\nb", "[1, [2]]")


@pytest.mark.parametrize("value", ODD)
def test_every_key_with_an_odd_value_is_a_config_or_one_line(value: str) -> None:
    for key in leaves(TrainConfig):
        with suppress(InputError):
            try:
                parse(TrainConfig, ["tiny", "data.path=a", "run.output=b", f"{key}={value}"])
            except InputError as error:
                assert "\n" not in str(error) and key in str(error), key
                assert len(str(error)) < 600
                raise


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("model.width=65", "model.width=65: must be a multiple of model.num_heads=2, such as 66"),
        ("model.num_heads=3", "model.width=64: must be a multiple of model.num_heads=3, such as 66"),
        ("model.width=0", "model.width=0: must be a whole number from 1 to 65,536 (channels)"),
        ("model.depth=-2", "model.depth=-2: must be a whole number from 1 to 1,000 (layers)"),
        ("model.depth=1000000", "model.depth=1000000: must be a whole number from 1 to 1,000 (layers)"),
        ("model.num_heads=0", "model.num_heads=0: must be a whole number from 1 to 65,536 (heads)"),
        ("model.text_length=1", "model.text_length=1: must be a whole number from 2 to 4,096 (tokens)"),
        (
            "model.mlp_ratio=0.01",
            "model.mlp_ratio=0.01: the feed-forward layers would have no channels; it must be at least 1/64 with "
            "model.width=64",
        ),
    ],
)
def test_sizes_of_which_no_network_can_be_made(argument: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        parse(TrainConfig, ["tiny", "data.path=a", "run.output=b", argument])
    assert str(error.value).startswith(message)
