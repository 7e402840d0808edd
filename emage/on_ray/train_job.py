"""What a training run's driver hands to its workers, by way of Ray Train's controller.

The controller imports this module too, and starts workers only afterwards: nothing here takes seconds to import.
"""

from dataclasses import dataclass
from typing import Any

from emage.config import TrainConfig


@dataclass(frozen=True)
class Job:
    config: TrainConfig
    output: str


def work(settings: dict[str, Any]) -> str | None:
    """One Ray Train worker. Returns what a person must mend before training can go on, None at its end."""
    from emage.on_ray import worker  # with torch, DeepSpeed and the text encoder's library

    return worker.work(settings["job"])
