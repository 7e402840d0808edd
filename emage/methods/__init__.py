"""The paper's five methods and one of ours: `METHODS` maps a name to a module, whose members `MethodModule` lists.

A method never sees captions or pixels: tokens and a text context go in, tokens or a loss come out. To add one, write a
module like emage/methods/iterative1.py and add its name to `Method` in emage/config/model.py (docs/extending.md).

Examples:
    >>> from emage.config import SamplingConfig
    >>> from emage.methods import METHODS
    >>> METHODS["iterative3"].num_steps(SamplingConfig(steps=16), 1024)
    16
"""

import importlib
from typing import cast, get_args

from emage.config import Method
from emage.methods.base import Loss, MethodModule, Step

__all__ = ["METHODS", "Loss", "MethodModule", "Step"]

METHODS: dict[str, MethodModule] = {
    name: cast(MethodModule, importlib.import_module(f"emage.methods.{name}")) for name in get_args(Method)
}
