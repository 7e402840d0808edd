"""The actors of an evaluation and the parts of the work that they do.

An actor gets its first part once it is there, so that work waits for no node that has yet to come. One that is lost is
replaced as soon as there is room for another; its part is given to whoever is free. Actors that come later join in.
"""

from collections import Counter, deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
from ray.exceptions import NodeDiedError, ObjectLostError, OutOfMemoryError, RayActorError, WorkerCrashedError

from emage.config import EvaluateConfig
from emage.on_ray import tasks
from emage.on_ray.evaluation.actor import Drawer, Networks
from emage.utils.errors import InputError

LOST = (RayActorError, NodeDiedError, ObjectLostError, OutOfMemoryError, WorkerCrashedError)
REPEATED = 5  # times that a part, or the start of an actor, is tried again; what fails every time is no accident


class Part(NamedTuple):
    """One call of an actor."""

    method: str
    arguments: tuple[Any, ...]
    size: int  # images, for the bar


class Pool:
    """The actors, started when there is work for them, and kept for the next stage."""

    def __init__(self, config: EvaluateConfig, networks: Networks):
        self.config, self.networks = config, networks
        self._drawer = ray.remote(num_gpus=config.gpus_per_actor, num_cpus=1)(Drawer)
        self._asked: dict[ray.ObjectRef, tuple[Any, bool]] = {}  # whether it is there -> an actor, whether it is new
        self._idle: list[Any] = []

    def run(self, stage: str, parts: Sequence[Part], done: int = 0) -> list[Any]:
        """The parts' results in their order. `done` images were there before; the bar counts them.

        Raises InputError for what a person can mend.
        """
        results: dict[int, Any] = {}
        waiting, tries = deque(range(len(parts))), Counter[int | None]()  # None: an actor's start
        busy: dict[ray.ObjectRef, tuple[Any, int]] = {}
        self._say_what_is_missing(len(parts))
        self._ask_the_idle()
        with tasks.progress_bar(stage, done + sum(part.size for part in parts), "images", done) as bar:
            while len(results) < len(parts):
                self._grow(len(busy), len(busy) + len(waiting))  # one for each part that is left
                while waiting and self._idle:
                    actor, number = self._idle.pop(), waiting.popleft()
                    busy[actor.do.remote(parts[number].method, parts[number].arguments)] = actor, number
                (ref,), _ = ray.wait([*busy, *self._asked], num_returns=1)
                if ref in busy:
                    (actor, number), is_a_try = busy.pop(ref), True
                else:
                    (actor, is_a_try), number = self._asked.pop(ref), None
                try:
                    result = ray.get(ref)
                except LOST as error:
                    tries[number] += is_a_try
                    if tries[number] > REPEATED and not (number is None and busy):  # the others go on
                        raise _again_and_again(error) from None
                    if number is not None:
                        waiting.appendleft(number)
                        self._ask_the_idle()  # who went with the same node gets no part
                else:
                    tries[number] = 0
                    self._idle.append(actor)
                    if number is not None:
                        results[number] = result
                        bar.update(parts[number].size)
        return [results[number] for number in range(len(parts))]

    def _ask_the_idle(self) -> None:
        """They get a part once they have answered."""
        self._asked |= {actor.is_there.remote(): (actor, False) for actor in self._idle}
        self._idle = []

    def _grow(self, busy: int, parts: int) -> None:
        """As many actors as there is work for, and no more than are wanted."""
        for _ in range(busy + len(self._idle) + len(self._asked), min(self.config.num_actors, parts)):
            actor: Any = self._drawer.remote(self.config, self.networks)
            self._asked[actor.is_there.remote()] = actor, True

    def _say_what_is_missing(self, parts: int) -> None:
        wanted = min(self.config.num_actors, parts) * self.config.gpus_per_actor
        there = ray.cluster_resources().get("GPU", 0.0)
        if wanted > there:
            print(f"{wanted:g} GPUs are asked for, the cluster has {there:g}: the others join in when they come")


def _again_and_again(error: Exception) -> InputError:
    lines = str(error).strip().splitlines()
    if getattr(error, "actor_init_failed", False):
        return InputError(f"no actor could start ({lines[-1]}); mend that and run the same command again")
    return InputError(
        f"an actor died again and again ({lines[0]}); look at the memory of its node (a smaller batch_size needs less) "
        "and run the same command again"
    )
