"""What every part of benchmarks/serve.py is given: its settings, the server, the same model beside it."""

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
SPARE_S = 15.0  # an answer so much later than the server's own deadline is none
PARTS = ("latency", "throughput", "memory", "kill")


@dataclass(frozen=True)
class ServeBenchmark:
    """What serving costs beside drawing alone, and what the endpoint withstands (benchmarks/serve.py)."""

    checkpoint: str = "demo"  # a folder, or paper: random weights by `model` and `grid`
    parts: tuple[str, ...] = PARTS
    steps: int | None = None  # of an image; none: the model's own
    threads: int | None = None  # of direct drawing; none: as many as a replica takes on a CPU
    pairs: int = 200  # latency
    clients: tuple[int, ...] = (1, 8, 32, 64, 256)  # throughput: a level each
    pictures: int = 256  # of a level; four a client where that is more
    level_s: float = 120.0  # after which a level asks for no more
    requests: int = 2_000  # memory
    load_s: float = 40.0  # kill: of load by 8 clients; the kill comes after a quarter of it
    model: ModelConfig = field(default_factory=ModelConfig)
    grid: int = 32
    server: dict[str, Any] = field(default_factory=dict)  # server.KEY=VALUE, settings of pipelines/serve.py
    results: str = str(RESULTS / "serve.json")


class Bench(NamedTuple):
    """What every part is given."""

    settings: ServeBenchmark
    config: ServeConfig
    pipe: emage.Emage  # the same model in this process; it rests while the server works
    server: psutil.Process
    url: str

    def body(self, number: int) -> dict[str, Any]:
        """The request of image `number`, which is the same in every part and for the model itself."""
        own = {} if self.settings.steps is None else {"steps": self.settings.steps}
        return {"prompt": PROMPTS[number % len(PROMPTS)], "seed": number, **own}

    async def ask(self, session: aiohttp.ClientSession, number: int) -> Answer:
        return await ask(session, number, self.body(number))

    def draw(self, numbers: Sequence[int]) -> list[Image.Image]:
        """Images without a server, in batches as large as its."""
        bodies = [self.body(number) for number in numbers]
        prompts, seeds = ([body.pop(name) for body in bodies] for name in ("prompt", "seed"))
        return self.pipe.generate(prompts, seed=seeds, batch_size=self.config.max_batch_size, **bodies[0])

    @property
    def deadline_s(self) -> float:
        return self.config.timeout_s + SPARE_S


@contextmanager
def bar(what: str, total: float) -> Iterator[Callable[[], object]]:
    """A progress bar on a terminal, drawn so rarely that it costs nothing; what it gives moves it on by one."""
    with Progress(refresh_per_second=1, disable=not Console().is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
