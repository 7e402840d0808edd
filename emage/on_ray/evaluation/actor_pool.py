"""The pool of actors of an evaluation, and the work items that they execute.

An actor gets its first work item when it has started, so that no work waits for a node that is not available yet. A
lost actor is replaced as soon as the cluster has resources for another, and its work item goes to any free actor.
Actors that start later join in.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

from emage.config import EvaluateConfig
from emage.on_ray import tasks
from emage.on_ray.evaluation.actor import EvaluationActor, ExpectedWeights
from emage.utils.errors import InputError

ACTOR_LOST_ERRORS = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)
MAX_RETRIES = 5  # of a work item or of the start of an actor, in a row


class WorkItem(NamedTuple):
    """One call of an actor's method; `size` is its number of images, for the progress bar."""

    method: str
    arguments: tuple[Any, ...]
    size: int


class ActorPool:
    """Actors that are started when there is work for them, and kept for the next stage."""

    def __init__(self, config: EvaluateConfig, expected: ExpectedWeights):
        self.config, self.expected = config, expected
        self._actor_class = ray.remote(num_gpus=config.gpus_per_actor, num_cpus=1)(EvaluationActor)
        self._pinged: dict[ray.ObjectRef, tuple[Any, bool]] = {}  # ping -> (actor, whether it is a new one)
        self._idle: list[Any] = []

    def run(self, stage: str, items: Sequence[WorkItem], done: int = 0) -> list[Any]:
        """Execute the work items; return their results in the same order.

        Args:
            stage: Name in the progress bar.
            items: The work.
            done: Number of images that were finished before, for the progress bar.

        Raises:
            InputError: A work item, or the start of an actor, has failed MAX_RETRIES + 1 times in a row.
        """
        results: dict[int, Any] = {}
        waiting, failures = deque(range(len(items))), Counter[int | None]()  # None: the start of an actor
        busy: dict[ray.ObjectRef, tuple[Any, int]] = {}
        self._warn_of_missing_gpus(len(items))
        self._ping_idle()
        with tasks.progress_bar(stage, done + sum(item.size for item in items), "images", done) as bar:
            while len(results) < len(items):
                self._start_actors(len(busy), len(busy) + len(waiting))
                while waiting and self._idle:
                    actor, number = self._idle.pop(), waiting.popleft()
                    busy[actor.run.remote(items[number].method, items[number].arguments)] = actor, number
                (ref,), _ = ray.wait([*busy, *self._pinged], num_returns=1)
                if ref in busy:
                    (actor, number), counts_as_failure = busy.pop(ref), True
                else:
                    (actor, counts_as_failure), number = self._pinged.pop(ref), None
                try:
                    result = ray.get(ref)
                except ACTOR_LOST_ERRORS as error:
                    failures[number] += counts_as_failure
                    # An actor that cannot start does not end the work of the actors that run.
                    if failures[number] > MAX_RETRIES and not (number is None and busy):
                        raise _retries_exhausted(error) from None
                    if number is not None:
                        waiting.appendleft(number)
                        self._ping_idle()  # actors that were lost with the same node must not get work
                else:
                    failures[number] = 0
                    self._idle.append(actor)
                    if number is not None:
                        results[number] = result
                        bar.update(items[number].size)
        return [results[number] for number in range(len(items))]

    def _ping_idle(self) -> None:
        """Ping the idle actors: they get work again when they have answered."""
        self._pinged |= {actor.ping.remote(): (actor, False) for actor in self._idle}
        self._idle = []

    def _start_actors(self, num_busy: int, num_items: int) -> None:
        """Start actors until there are `num_actors`, or one for each work item that is left."""
        for _ in range(num_busy + len(self._idle) + len(self._pinged), min(self.config.num_actors, num_items)):
            actor: Any = self._actor_class.remote(self.config, self.expected)
            self._pinged[actor.ping.remote()] = actor, True

    def _warn_of_missing_gpus(self, num_items: int) -> None:
        wanted = min(self.config.num_actors, num_items) * self.config.gpus_per_actor
        available = ray.cluster_resources().get("GPU", 0.0)
        if wanted > available:
            print(f"{wanted:g} GPUs are requested, the cluster has {available:g}: more actors start if GPUs are added")


def _retries_exhausted(error: Exception) -> InputError:
    lines = str(error).strip().splitlines()
    if getattr(error, "actor_init_failed", False):
        return InputError(f"no actor could start ({lines[-1]}); fix that and run the same command again")
    return InputError(
        f"an actor failed {MAX_RETRIES + 1} times in a row ({lines[0]}); check the memory of its node (a smaller "
        "batch_size needs less) and run the same command again"
    )
