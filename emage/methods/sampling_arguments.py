"""The sampling settings as keyword arguments of the pipeline's methods.

Every one is a field of SamplingConfig of the same name and type; None stands for the checkpoint's own setting.
`generate`, `stream` and `inpaint` of emage/inference/pipeline.py list them in their signatures, for `help()` and IDEs;
the other methods take `**sampling: Unpack[SamplingArguments]`. tests/methods/test_sampling_arguments.py compares all of
them with SamplingConfig.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypedDict

from emage.config import SamplingConfig, Schedule, UnmaskingOrder, nearest
from emage.config.model import GuidanceSchedule, Revise
from emage.methods.sampling import check_sampling
from emage.utils.errors import InputError

NAMES = tuple(item.name for item in fields(SamplingConfig))


class SamplingArguments(TypedDict, total=False):
    """The sampling settings as keyword arguments; `Emage.generate` documents each of them."""

    steps: int | None
    schedule: Schedule | None
    order: UnmaskingOrder | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    gumbel: float | None
    revise: Revise | None
    guidance: float | None
    guidance_schedule: GuidanceSchedule | None
    remask: float | None


def sampling_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sampling settings among the arguments of a call.

    Args:
        arguments: The caller's `locals()`, taken in its first line. Arguments that it does not have are in
            `arguments["unknown"]` and are returned as well: `sampling_settings` rejects them.
    """
    return {name: arguments[name] for name in NAMES} | arguments.get("unknown", {})


def sampling_settings(own: SamplingConfig, sampling: Mapping[str, Any], num_tokens: int) -> SamplingConfig:
    """Return the checkpoint's own settings with some replaced.

    Args:
        own: The checkpoint's settings.
        sampling: Settings by name; None: the checkpoint's own.
        num_tokens: Tokens of an image, which `steps` must not exceed.

    Raises:
        InputError: For an unknown name, naming the nearest one, or a value that is not allowed.
    """
    for name in sampling:
        if name not in NAMES:
            raise InputError(f"unknown sampling setting {name!r}{nearest(name, NAMES)}")
    settings = replace(own, **{name: value for name, value in sampling.items() if value is not None})
    check_sampling(settings, num_tokens)
    return settings
