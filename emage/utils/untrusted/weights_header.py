"""The header of a safetensors file against the network that it should hold, before memory is taken for either."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

EXTRA_STATE = "_extra_state"  # ending of the key of what a module keeps beside its weights; its size may differ


def check_weights(build: Callable[[], nn.Module], path: str | Path) -> None:
    """Raise ValueError unless a file has exactly the tensors of a network, by name and shape.

    The network is built without memory, and its building ends once it has far more parameters than the file.

    Args:
        build: Builds the network; any sizes that a stranger's config names.
        path: The safetensors file.
    """
    with safe_open(path, framework="pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118  # no mapping
    with _limit_parameters(1_000 + 4 * len(found)), torch.device("meta"):
        network = build()
    wanted = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    if missing := sorted(wanted.keys() - found.keys()):
        raise ValueError(f"it has no {missing[0]}{_and_others(missing)}")
    if more := sorted(found.keys() - wanted.keys()):
        raise ValueError(f"it has {more[0][:100]}{_and_others(more)}, which the network has not")
    for key, shape in wanted.items():
        if found[key] != shape and not key.endswith(EXTRA_STATE):
            raise ValueError(f"its {key} has the shape {found[key]}, that of the network {shape}")


@contextmanager
def _limit_parameters(most: int) -> Iterator[None]:
    """Raise ValueError in the block once modules of this thread have more than `most` parameters."""
    thread, count = threading.get_ident(), 0

    def limit(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
        nonlocal count
        if threading.get_ident() == thread:
            count += 1
            if count > most:
                raise ValueError("it has far fewer tensors than the network")

    hook = register_module_parameter_registration_hook(limit)
    try:
        yield
    finally:
        hook.remove()


def _and_others(keys: list[str]) -> str:
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""
