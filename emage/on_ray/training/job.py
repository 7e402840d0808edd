"""The function that Ray Train's controller passes to its workers.

The controller imports this module too, before it starts the workers: the module must not import PyTorch at its top.
"""

from typing import Any


def work(settings: dict[str, Any]) -> str | None:
    """Run one Ray Train worker. `settings` are the arguments of `worker.work`, whose result is returned."""
    from emage.on_ray.training import worker  # imports torch, DeepSpeed and the text encoder's library

    return worker.work(**settings)
