"""The check of values against the descriptions of their fields; every message is one line."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pytest

from emage.config import (
    EvaluateConfig,
    IngestConfig,
    SamplingConfig,
    ServeConfig,
    TrainConfig,
    check,
    check_arguments,
    parse,
    preset,
)
from emage.config.fields import MAX_SEED, describe_allowed, group, leaves, setting
from emage.utils.errors import InputError


@dataclass(frozen=True)
class Inner:
    """Inner keys."""

    size: float = setting(1.0, "A size.", unit="metres", above=0, maximum=10)


@dataclass(frozen=True)
class Outer:
    """Outer keys."""

    count: int = setting(3, "A count.", minimum=1)
    name: Literal["red", "blue"] = setting("red", "A colour.")
    names: tuple[str, ...] = setting(("a",), "Names.", not_empty=True)
    flag: bool = setting(False, "A switch.")
    seed: int | None = setting(None, "A seed.", minimum=0, maximum=MAX_SEED)
    folder: str = setting("out", "A folder.", is_folder=True)
    more: dict[str, Any] = setting(dict, "Other keys.", entries=Inner)
    inner: Inner = group(Inner)

    def problems(self, prefix: str = "") -> Iterator[str]:
        if self.count < self.inner.size:
            yield f"{prefix}count={self.count} is less than {prefix}inner.size={self.inner.size}"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"count": 0}, "count=0: must be a whole number of at least 1"),
        ({"count": 2.0}, "count=2.0: must be a whole number of at least 1"),
        ({"count": True}, "count=True: must be a whole number of at least 1"),
        ({"name": "bleu"}, "name=bleu: must be one of red, blue; did you mean blue?"),
        ({"names": ()}, "names=[]: must be a list of at least one entry, each text"),
        ({"names": ("a", 3)}, "names=[a, 3]: must be a list of at least one entry, each text"),
        ({"names": "a"}, "names=a: must be a list of at least one entry, each text"),
        ({"flag": 1}, "flag=1: must be true or false"),
        ({"seed": -1}, "seed=-1: must be a whole number from 0 to 2^63 - 1, or null"),
        ({"seed": 10**400}, f"seed=1{'0' * 199}...: must be a whole number from 0 to 2^63 - 1, or null"),
        ({"folder": "s3://bucket"}, "folder=s3://bucket: must be a folder that every node sees, not a URL"),
        ({"folder": "???"}, "folder is required: add folder=... (--help lists every key)"),
        ({"more": {"siez": 1.0}}, "unknown key 'more.siez'; did you mean size?"),
        ({"more": {"size": 0}}, "more.size=0: must be a number above 0 and at most 10 (metres)"),
        ({"inner": Inner(float("nan"))}, "inner.size=nan: must be a number above 0 and at most 10 (metres)"),
        ({"inner": Inner(float("inf"))}, "inner.size=inf: must be a number above 0 and at most 10 (metres)"),
        ({"inner": Inner(9.0)}, "count=3 is less than inner.size=9.0"),
        ({"inner": Inner(11.0)}, "inner.size=11.0: must be a number above 0 and at most 10 (metres)"),  # that alone
    ],
)
def test_what_a_field_does_not_allow_is_one_line(values: dict[str, Any], message: str):
    check(Outer())
    with pytest.raises(InputError) as error:
        check(replace(Outer(), **values))
    assert str(error.value) == message


def test_a_prefix_is_put_before_every_key():
    for wrong in (Outer(count=0), Outer(inner=Inner(9.0)), Outer(inner=Inner(0.0))):
        with pytest.raises(InputError, match=r"^a\.(count|inner\.size)="):
            check(wrong, prefix="a.")


@pytest.mark.parametrize(
    ("program", "argv", "message"),
    [
        (
            TrainConfig,
            ["tiny", "data.path=a", "run.output=b", "run.num_workers=9"],
            "optim.batch_size=8 leaves some micro-batches of run.num_workers=9 without a row: use fewer workers, or a "
            "larger optim.micro_batch_size (it is 8); preset tiny sets optim.batch_size",
        ),
        (
            EvaluateConfig,
            ["paper", "checkpoint=a", "captions=b", "output=c"],
            "metrics=fid compares with real images: judge.reference=FOLDER, or a .tar of them; "
            "preset paper sets metrics",
        ),
        (
            ServeConfig,
            ["demo", "checkpoint=a", "num_replicas=3", "autoscaling.max_replicas=2"],
            "autoscaling.max_replicas=2: must be 0 (off) or at least num_replicas=3",
        ),
    ],
)
def test_rules_across_keys_name_the_preset_that_set_one(program: type, argv: list[str], message: str):
    with pytest.raises(InputError) as error:
        parse(program, argv)
    assert str(error.value) == message


def test_a_config_made_in_python_is_checked_in_the_same_way():
    config = preset(TrainConfig, "tiny", data={"path": "a"}, run={"output": "b"}, optim={"lr": -1.0})
    with pytest.raises(InputError, match=r"^optim\.lr=-1\.0: must be a number above 0 and at most 1e\+30$"):
        check(config)


def test_arguments_are_checked_by_the_field_of_their_name():
    check_arguments(EvaluateConfig, candidates=1, rank="clip")
    with pytest.raises(InputError, match=r"^rank=clp: must be one of none, likelihood, clip; did you mean clip\?$"):
        check_arguments(EvaluateConfig, candidates=1, rank="clp")


def test_arguments_may_be_numpy_numbers():
    check_arguments(EvaluateConfig, candidates=np.int64(2), batch_size=np.arange(1, 3)[0])
    with pytest.raises(InputError, match=r"^candidates=0: must be a whole number"):
        check_arguments(EvaluateConfig, candidates=np.int64(0))
    with pytest.raises(InputError, match=r"^candidates=2\.5: must be a whole number"):
        check_arguments(EvaluateConfig, candidates=np.float64(2.5))


def test_what_is_allowed_in_words():
    words = {key: describe_allowed(leaf) for key, leaf in (leaves(SamplingConfig) | leaves(IngestConfig)).items()}
    assert words["steps"] == "a whole number of at least 1 (decoding steps)"
    assert words["top_k"] == "a whole number from 0 to 1,048,576 (tokens)"
    assert words["order"] == "one of confidence, random, halton"
    assert words["source.md5"] == "text, or null"
    assert words["output"] == "a folder that every node sees, not a URL"
