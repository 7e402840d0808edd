"""Part of benchmarks/serve.py: its settings, and what its measurements share: the server and the same model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import psutil
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from serve_client import Answer, ask

import emage
from emage.config import ModelConfig, ServeConfig
from emage.data.shapes import sample_held_out_scenes

RESULTS = Path(__file__).parent / "results"
PROMPTS = [scene.caption for scene in sample_held_out_scenes(256, seed=0)]
SPARE_S = 15.0  # after the server's own deadline, until a request counts as unanswered
PARTS = ("latency", "throughput", "memory", "kill")


@dataclass(frozen=True)
class ServeBenchmark:
    """Settings of benchmarks/serve.py."""

    checkpoint: str = "demo"  # a folder, or paper: random weights by `model` and `grid`
    parts: tuple[str, ...] = PARTS
    steps: int | None = None  # decoding steps; None: the model's default
    threads: int | None = None  # of direct generation; None: as many as a replica uses on a CPU
    pairs: int = 200  # of latency
    clients: tuple[int, ...] = (1, 8, 32, 64, 256)  # of throughput: one level each
    pictures: int = 256  # of a level; four per client if that is more
    level_s: float = 120.0  # after which a level sends no more requests
    requests: int = 2_000  # of memory
    load_s: float = 40.0  # of kill: load by 8 clients; the process is killed after a quarter
    model: ModelConfig = field(default_factory=ModelConfig)
    grid: int = 32
    server: dict[str, Any] = field(default_factory=dict)  # server.KEY=VALUE, settings of pipelines/serve.py
    results: str = str(RESULTS / "serve.json")


class Bench(NamedTuple):
    """Settings, the server, and the same model in this process."""

    settings: ServeBenchmark
    config: ServeConfig
    pipe: emage.Emage  # idle while the server works
    server: psutil.Process
    url: str

    def body(self, number: int) -> dict[str, Any]:
        """Return the request of image `number`: equal in every part, and for the model in this process."""
        own = {} if self.settings.steps is None else {"steps": self.settings.steps}
        return {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number, **own}

    async def ask(self, session: aiohttp.ClientSession, number: int) -> Answer:
        return await ask(session, number, self.body(number))

    def generate(self, numbers: Sequence[int]) -> list[Image.Image]:
        """Generate images without the server, with its batch size."""
        bodies = [self.body(number) for number in numbers]
        prompts, seeds = ([body.pop(name) for body in bodies] for name in ("prompt", "seed"))
        return self.pipe.generate(prompts, seed=seeds, batch_size=self.config.max_batch_size, **bodies[0])

    @property
    def deadline_s(self) -> float:
        return self.config.timeout_s + SPARE_S


@contextmanager
def bar(what: str, total: float) -> Iterator[Callable[[], object]]:
    """Show a progress bar on a terminal, refreshed rarely to cost little; yield a function that advances it by one."""
    with Progress(refresh_per_second=1, disable=not Console().is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
