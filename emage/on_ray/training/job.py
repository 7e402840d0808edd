"""What Ray Train's controller hands to its workers.

The controller imports this module too, and starts workers only afterwards: nothing here takes seconds to import.
"""

from typing import Any


def work(settings: dict[str, Any]) -> str | None:
    """One Ray Train worker: `settings` are the arguments of `worker.work`, whose result it returns."""
    from emage.on_ray.training import worker  # with torch, DeepSpeed and the text encoder's library

    return worker.work(**settings)
