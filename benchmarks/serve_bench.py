"""Part of benchmarks/serve.py: its settings, and what its measurements share: the server and the same model."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
from emage.config.fields import group, setting
from emage.data.shapes import sample_held_out_scenes

RESULTS = Path(__file__).parent / "results"
PROMPTS = [scene.caption for scene in sample_held_out_scenes(256, seed=0)]
SPARE_S = 15.0  # after the server's own deadline, until a request counts as unanswered
PARTS = ("latency", "throughput", "memory", "kill")


@dataclass(frozen=True)
class ServeBenchmark:
    """Settings of benchmarks/serve.py."""

    checkpoint: str = setting("demo", "Checkpoint: a folder, or `paper`: random weights by `model` and `grid`.")
    parts: tuple[str, ...] = setting(PARTS, "Measurements.", choices=PARTS)
    steps: int | None = setting(None, "Decoding steps per image. null: the model's own.", unit="steps", minimum=1)
    threads: int | None = setting(
        None, "Threads of direct generation. null: as many as a replica has on a CPU.", unit="threads", minimum=1
    )
    pairs: int = setting(200, "latency: requests, each next to a direct generation.", unit="requests", minimum=1)
    clients: tuple[int, ...] = setting(
        (1, 8, 32, 64, 256), "throughput: clients of each load level.", unit="clients", minimum=1, not_empty=True
    )
    pictures: int = setting(256, "throughput: images per level, at least four per client.", unit="images", minimum=1)
    level_s: float = setting(120.0, "throughput: time after which a level sends no more.", unit="seconds", above=0)
    requests: int = setting(2_000, "memory: requests.", unit="requests", minimum=1)
    load_s: float = setting(
        40.0, "kill: time of load by 8 clients; the kill comes after a quarter of it.", unit="seconds", above=0
    )
    model: ModelConfig = group(ModelConfig)
    grid: int = setting(32, "checkpoint=paper: rows and columns of an image's tokens.", unit="tokens", minimum=1)
    server: dict[str, Any] = setting(dict, "Settings of the server: server.KEY=VALUE, as for `emage serve`.")
    results: str = setting(str(RESULTS / "serve.json"), "JSON file for the numbers.")


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
        """Request image `number` from the server."""
        return await ask(session, number, self.body(number))

    def generate(self, numbers: Sequence[int]) -> list[Image.Image]:
        """Generate images without the server, with its batch size."""
        bodies = [self.body(number) for number in numbers]
        prompts, seeds = ([body.pop(name) for body in bodies] for name in ("prompt", "seed"))
        return self.pipe.generate(prompts, seed=seeds, batch_size=self.config.max_batch_size, **bodies[0])

    @property
    def deadline_s(self) -> float:
        """Seconds after which a request counts as unanswered."""
        return self.config.timeout_s + SPARE_S


@contextmanager
def bar(what: str, total: float) -> Iterator[Callable[[], object]]:
    """Show a progress bar on a terminal, refreshed rarely to cost little; yield a function that advances it by one."""
    with Progress(refresh_per_second=1, disable=not Console().is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.advance(task)
