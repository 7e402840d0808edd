"""The paper's five methods: `METHODS` maps a name to a module, whose members `MethodModule` lists.

A method never sees captions or pixels: tokens and a text context go in, tokens or a loss come out. To add one, write a
module like emage/methods/iterative1.py and add it to METHODS (docs/extending).

Examples:
    >>> from emage.methods import METHODS
    >>> METHODS["iterative3"].num_steps(SamplingConfig(steps=16), 1024)
    16
"""

from emage.methods import autoregressive, fully_nar, iterative1, iterative2, iterative3
from emage.methods.base import Loss, MethodModule, Step

__all__ = ["METHODS", "Loss", "MethodModule", "Step"]

METHODS: dict[str, MethodModule] = {
    "fully_nar": fully_nar,
    "iterative1": iterative1,
    "iterative2": iterative2,
    "iterative3": iterative3,
    "autoregressive": autoregressive,
}
